"""What travels and what is stored: pure data and pure functions, no I/O."""
