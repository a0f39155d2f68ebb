"""Derive independent random seeds from a seed and names.

No module seeds a generator at import.
"""

import hashlib

import numpy as np

SPLIT_SALT = "held out"  # salt of the train/validation split, also used by dedupe to choose a cluster's id


def derive_seed(seed: int, *names: object) -> int:
    """Derive a 63-bit seed from `seed` and `names`.

    Equal inputs give equal seeds on every machine.
    """
    text = "\x1f".join(map(str, (seed, *names)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_rng(seed: int, *names: object) -> np.random.Generator:
    """Create a NumPy generator seeded from `seed` and `names`."""
    return np.random.default_rng(derive_seed(seed, *names))


def hash_to_unit(key: str, salt: str) -> float:
    """Hash `key` to [0, 1).

    A split by this number is stable when other items are added or removed.
    """
    return derive_seed(0, salt, key) / 2**63
