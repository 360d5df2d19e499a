"""What every room shares: settings, logs, metrics, health, Kafka, the catalog, blobs, keys."""
