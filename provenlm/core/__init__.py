"""Floor 0: the nouns that every other room speaks. No torch, no network."""
