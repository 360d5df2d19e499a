"""Builds Lucid's images: `python -m containers build`. docs/containers.md says how and why."""
