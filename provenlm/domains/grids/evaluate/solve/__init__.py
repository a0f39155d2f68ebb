"""Solve puzzles with a language model that is adapted to each of them."""
