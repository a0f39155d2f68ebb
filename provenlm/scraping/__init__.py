"""Fetch sources and turn them into records; the only package with network access."""
