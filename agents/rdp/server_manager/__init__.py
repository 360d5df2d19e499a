"""Keeps RDP servers: their states, their ports, and what is asked of them."""
