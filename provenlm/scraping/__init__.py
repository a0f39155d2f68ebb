"""Floor 1: pages in from the world, records out. The only room with a network."""
