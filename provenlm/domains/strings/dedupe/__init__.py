"""Deduplicate strings."""
