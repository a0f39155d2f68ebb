"""Provide what the benchmarks share: timing in turns, peers with our weights, and result files."""
