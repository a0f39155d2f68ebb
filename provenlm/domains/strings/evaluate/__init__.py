"""Evaluate models of strings."""
