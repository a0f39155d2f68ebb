"""Define the stage dedupe for symbolic music."""
