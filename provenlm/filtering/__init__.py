"""Floor 1: engines over records: filtering and duplicates."""
