"""Evaluate models of text."""
