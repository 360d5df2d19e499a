#!/usr/bin/env bash
# Checks all containers; the same as `lucid validate containers`, whose options it takes.
set -u
cd "$(dirname "$0")/.."
exec .venv/bin/lucid validate containers "$@"
