"""Floor 1: the blocks that nets are made of."""
