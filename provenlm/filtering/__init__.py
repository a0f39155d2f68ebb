"""Filter records of any domain."""
