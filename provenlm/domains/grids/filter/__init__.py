"""Define the stage filter of puzzles."""
