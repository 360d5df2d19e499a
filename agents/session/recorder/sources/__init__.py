"""What can be recorded: each source gives payloads with their event times."""
