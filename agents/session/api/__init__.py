"""lucid-session-api: views of the events, and a read-only HTTP API over them."""
