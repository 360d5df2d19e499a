"""lucid-session-processor: cuts frame records into chunks, seals them, proves them."""
