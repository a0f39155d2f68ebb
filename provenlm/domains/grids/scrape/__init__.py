"""Define the stage scrape of puzzles."""
