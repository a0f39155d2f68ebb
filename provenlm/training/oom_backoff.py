"""Halve the micro-batch whenever a computation runs out of memory."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from provenlm.core.errors import ConfigError
from provenlm.training.distributed.process_group import DistributedContext

T = TypeVar("T")


@dataclass
class OomBackoff:
    """Hold the largest micro-batch size that has fit so far; it only shrinks."""

    micro_batch_size: int

    def run(self, compute: Callable[[int], T], reset: Callable[[], None], dist: DistributedContext) -> T:
        """Run `compute(micro_batch_size)`; on out-of-memory, `reset()` and halve the size.

        All processes halve together. Raises ProvenlmError if one sequence does not fit, or with fsdp2, whose collectives cannot be retried.
        """
        while True:
            results: list[T] = []
            try:
                results.append(compute(self.micro_batch_size))
            except RuntimeError as error:
                if not is_oom_error(error):
                    raise
                if dist.is_sharded:
                    raise ConfigError(
                        f"out of memory: train.micro_batch_size must be < {self.micro_batch_size}, or distributed.world_size larger "
                        "(fsdp2 cannot retry a pass with a smaller micro-batch)"
                    ) from None
            if not dist.any_rank(not results):
                return results[0]
            results.clear()
            reset()  # after the exception is released, because its frames hold the tensors
            if self.micro_batch_size == 1:
                raise ConfigError("out of memory with micro_batch_size 1: lower train.seq_len or the size of the model")
            self.micro_batch_size = -(-self.micro_batch_size // 2)
            if torch.cuda.is_available():
                torch.cuda.empty_cache()


def is_oom_error(error: RuntimeError) -> bool:
    """Return whether an allocator ran out of memory.

    The CPU allocator raises a plain RuntimeError, so its message is tested.
    """
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
