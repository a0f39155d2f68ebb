"""A few short strings given in params.yaml: the smallest corpus there is, for ladders and tests."""
