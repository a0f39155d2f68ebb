"""Store token ids in flat arrays on disk and check them."""
