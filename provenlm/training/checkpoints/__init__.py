"""Write, read, retain and replay checkpoints."""
