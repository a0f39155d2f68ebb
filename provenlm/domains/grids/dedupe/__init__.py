"""Define the stage dedupe of puzzles."""
