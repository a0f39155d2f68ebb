"""Compile numeric functions with Numba and cache the machine code.

The cache lies beside the source.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile `function` at its first call, without holding the GIL.

    If no cache folder is writable, each process compiles.
    """
    try:
        return cast(F, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # neither the folder of the source nor the user's cache folder is writable
        return cast(F, numba.njit(nogil=True)(function))
