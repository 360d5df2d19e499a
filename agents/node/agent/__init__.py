"""The node's side: it registers with its key and sends signed heartbeats."""
