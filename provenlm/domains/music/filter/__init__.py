"""Define the stage filter for symbolic music."""
