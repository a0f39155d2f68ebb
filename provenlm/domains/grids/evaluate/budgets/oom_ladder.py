"""Try a task with less and less memory until it fits, and log each rung."""

import gc
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

from provenlm.domains.grids.evaluate.budgets.limits import is_out_of_memory

T = TypeVar("T")


@dataclass(frozen=True)
class TaskPlan:
    """Hold the settings of a task that decide its memory.

    `num_micro_batches` of `micro_batch_size` lessons make up a step. `rank` is that of adapters, None for full fine-tuning.
    """

    micro_batch_size: int
    num_micro_batches: int = 1
    recompute: bool = False
    num_views: int = 1
    rank: int | None = None
    trains: bool = True
    can_recompute: bool = True
    min_views: int = 8
    min_rank: int = 4


def next_plan(plan: TaskPlan) -> tuple[TaskPlan, str] | None:
    """Return the plan that needs less memory, and what changed; None if there is none.

    The order is by what it costs: smaller micro-batches with as many lessons a step, recomputed activations, fewer views, a smaller rank,
    no training at all.
    """
    if plan.micro_batch_size > 1:
        size, number = -(-plan.micro_batch_size // 2), plan.num_micro_batches * 2
        return replace(plan, micro_batch_size=size, num_micro_batches=number), f"{number} micro-batches of {size}"
    if plan.trains and not plan.recompute and plan.can_recompute:
        return replace(plan, recompute=True), "recomputed activations"
    if plan.num_views > plan.min_views:
        num_views = max(plan.min_views, plan.num_views // 2)
        return replace(plan, num_views=num_views), f"{num_views} views"
    if plan.trains and plan.rank is not None and plan.rank > plan.min_rank:
        rank = max(plan.min_rank, plan.rank // 2)
        return replace(plan, rank=rank), f"rank {rank}"
    if plan.trains:
        return replace(plan, trains=False), "no test-time training"
    return None


def run_with_ladder(plan: TaskPlan, attempt: Callable[[TaskPlan], T], log_rung: Callable[[str], None]) -> tuple[T, TaskPlan]:
    """Return `attempt(plan)` and the plan, for the first plan that fits.

    Raises what the last plan raised if none fits, and every exception that has nothing to do with memory.
    """
    while True:
        results: list[T] = []
        smaller = None
        try:
            results.append(attempt(plan))
        except (RuntimeError, MemoryError, OSError) as error:
            smaller = next_plan(plan)
            if smaller is None or not is_out_of_memory(error):
                raise
        if smaller is None:
            return results[0], plan
        free_memory()  # after the exception is released, because its frames hold the tensors
        plan, text = smaller
        log_rung(f"out of memory: {text}")


def free_memory() -> None:
    """Collect garbage and give cached memory of a GPU back."""
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
