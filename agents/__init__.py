"""The services of Lucid, one room each, and what they share in platform/."""
