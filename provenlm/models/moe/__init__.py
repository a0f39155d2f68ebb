"""A decoder whose feed-forward layers are mixtures of experts, as Mixtral (arXiv 2401.04088)."""
