"""Provide ARC puzzles: pairs of small coloured grids that demonstrate a rule."""
