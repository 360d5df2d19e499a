"""The local runtime base, equal to gcr.io/distroless/python3-debian12, from Debian packages."""
