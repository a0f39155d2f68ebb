"""A seed and names in, independent random numbers out. Nothing here or elsewhere seeds at import."""

import hashlib

import numpy as np

SPLIT_SALT = "held out"  # the salt of the split: dedupe names a cluster by it, tokenize holds out by it


def derive_seed(seed: int, *names: object) -> int:
    """A 63-bit seed that depends on `seed` and every name: equal inputs give equal streams on every machine."""
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_rng(seed: int, *names: object) -> np.random.Generator:
    return np.random.default_rng(derive_seed(seed, *names))


def hash_to_unit(key: str, salt: str) -> float:
    """A number in [0, 1) that depends on `key` alone: splits by it never move an item when others come or go."""
    return derive_seed(0, salt, key) / 2**63
