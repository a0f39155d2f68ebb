"""Define the stage tokenize of the toy domain."""
