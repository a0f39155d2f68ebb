"""Deduplicate text."""
