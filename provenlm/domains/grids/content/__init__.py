"""Read the content of a puzzle, and compare puzzles, for several stages."""
