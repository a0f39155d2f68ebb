"""Provide a bidirectional transformer on the cells of grid puzzles."""
