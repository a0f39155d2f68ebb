"""A computation that takes some rows at a time in, its result out: with half as many rows whenever memory runs out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from provenlm.core.errors import UserError
from provenlm.training.distributed.process_group import Crew

T = TypeVar("T")


@dataclass
class Room:
    """How many rows memory has held at a time so far. It only shrinks: what did not fit once is not tried again."""

    rows: int

    def fit(self, compute: Callable[[int], T], undo: Callable[[], None], crew: Crew) -> T:
        """`compute(rows)`; after it ran out of memory in any process, `undo()` and again with half the rows in all.

        UserError if one row does not fit, or if `compute` itself needs the others, who then wait in the middle of it.
        """
        while True:
            done: list[T] = []
            try:
                done.append(compute(self.rows))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if crew.sharded:
                    raise UserError(
                        f"out of memory with {self.rows} rows at a time, which fsdp2 cannot try again with fewer; "
                        "a smaller train.micro_batch or more processes would be right"
                    ) from None
            if not crew.any(not done):
                return done[0]
            done.clear()
            undo()  # not before the exception is gone, whose frames hold what was computed
            if self.rows == 1:
                raise UserError("out of memory with one row at a time; a shorter train.length or a smaller net would be right")
            self.rows = -(-self.rows // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an allocator refused. That of the CPU has no class of its own, only words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
