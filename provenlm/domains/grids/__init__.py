"""Solve ARC puzzles: pairs of small coloured grids from which a rule must be found."""
