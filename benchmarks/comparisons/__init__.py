"""Provide timing in turns, peers with our weights, and result files."""
