"""Tokenize strings."""
