"""Filter strings."""
