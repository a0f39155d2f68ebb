"""Floor 3: what is particular to an architecture; one folder each."""
