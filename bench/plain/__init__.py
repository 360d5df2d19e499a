"""Frames to files the plain way: what a user of each framework would write without Lucid."""
