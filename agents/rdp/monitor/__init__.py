"""lucid-rdp-monitor: what RDP servers and their sessions use, and alerts about it."""
