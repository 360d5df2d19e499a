"""`lucid validate containers`: is what runs what it should be? It looks, and it tries."""
