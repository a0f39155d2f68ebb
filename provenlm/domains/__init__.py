"""Floor 3: what is particular to a kind of data; one folder each."""
