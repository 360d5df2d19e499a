"""Nodes: the manager of all, and what runs on each of them."""
