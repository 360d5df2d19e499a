"""Keeps the xrdp processes of this host as they shall be."""
