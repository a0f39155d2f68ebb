"""Define the stage evaluate of the toy domain."""
