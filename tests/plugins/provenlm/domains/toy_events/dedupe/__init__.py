"""Define the stage dedupe of the toy domain."""
