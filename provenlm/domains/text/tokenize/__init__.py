"""Tokenize text."""
