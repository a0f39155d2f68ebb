"""Provide a causal transformer for music, with plain or hierarchical attention."""
