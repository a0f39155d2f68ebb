"""Define the stage tokenize for symbolic music."""
