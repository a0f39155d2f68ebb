"""Support a few short strings: the smallest corpus, for tutorials and tests."""
