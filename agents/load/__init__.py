"""`lucid load`: measures what a broker and the services behind it carry."""
