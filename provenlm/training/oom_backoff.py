"""A computation that takes some rows at a time in, its result out: with half as many rows whenever memory runs out."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from provenlm.core.errors import ProvenlmError
from provenlm.training.distributed.process_group import DistributedContext

T = TypeVar("T")


@dataclass
class OomBackoff:
    """How many rows memory has held at a time so far. It only shrinks: what did not fit once is not tried again."""

    micro_batch_size: int

    def run(self, compute: Callable[[int], T], reset: Callable[[], None], dist: DistributedContext) -> T:
        """`compute(rows)`; after it ran out of memory in any process, `undo()` and again with half the rows in all.

        ProvenlmError if one row does not fit, or if `compute` itself needs the others, who then wait in the middle of it.
        """
        while True:
            results: list[T] = []
            try:
                results.append(compute(self.micro_batch_size))
            except RuntimeError as error:
                if not is_oom_error(error):
                    raise
                if dist.is_sharded:
                    raise ProvenlmError(
                        f"out of memory with {self.micro_batch_size} rows at a time, which fsdp2 cannot try again with fewer; "
                        "a smaller train.micro_batch or more processes would be right"
                    ) from None
            if not dist.any_rank(not results):
                return results[0]
            results.clear()
            reset()  # not before the exception is gone, whose frames hold what was computed
            if self.micro_batch_size == 1:
                raise ProvenlmError("out of memory with one row at a time; a shorter train.length or a smaller net would be right")
            self.micro_batch_size = -(-self.micro_batch_size // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_oom_error(error: RuntimeError) -> bool:
    """Whether an allocator refused. That of the CPU has no class of its own, only words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
