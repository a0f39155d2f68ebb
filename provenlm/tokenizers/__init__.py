"""Floor 1: records to token ids and the flat arrays that trainers read."""
