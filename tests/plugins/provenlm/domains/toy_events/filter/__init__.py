"""Define the stage filter of the toy domain."""
