"""Define the stage evaluate for symbolic music."""
