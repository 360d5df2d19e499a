"""Images that stand in for the official ones of Kafka, MongoDB and Redis."""
