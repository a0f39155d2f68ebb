"""A function of numbers and arrays in, the same function as machine code out, kept beside its source for the next process."""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba

F = TypeVar("F", bound=Callable[..., Any])


def jit(function: F) -> F:
    """Compile `function` by Numba at its first call; other threads run meanwhile. Where nothing can be kept, each process compiles."""
    try:
        return cast(F, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # neither the source's folder nor a cache of the user can be written
        return cast(F, numba.njit(nogil=True)(function))
