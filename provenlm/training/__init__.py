"""Floor 2: objectives and batches in, steps and checkpoints out."""
