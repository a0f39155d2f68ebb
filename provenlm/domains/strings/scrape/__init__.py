"""Read strings."""
