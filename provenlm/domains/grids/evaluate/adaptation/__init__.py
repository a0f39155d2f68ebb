"""Train a model on one task at test time, and give the base back unchanged."""
