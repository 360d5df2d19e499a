"""lucid-session-pipeline: each session's state, and the reconciliation of all its counts."""
