"""lucid-session-storage: sealed chunks and manifests to disk, then to the catalog."""
