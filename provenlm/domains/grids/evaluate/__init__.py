"""Define the stage evaluate of puzzles."""
