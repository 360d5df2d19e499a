"""The routes, by what they speak of; who may use which stands in guard.py."""
