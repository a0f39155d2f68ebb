"""Define the stage tokenize of puzzles."""
