"""Lucid in containers: what they are, their secrets, their rights, and how they are checked."""
