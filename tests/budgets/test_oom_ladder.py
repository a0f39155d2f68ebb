"""Test the order of the rungs, and that only errors of memory lead to the next one."""

import pytest

from provenlm.domains.grids.evaluate.budgets.oom_ladder import TaskPlan, next_plan, run_with_ladder

PLAN = TaskPlan(micro_batch_size=3, num_views=20, rank=10)


def rungs(plan: TaskPlan) -> list[str]:
    """List all rungs from a plan down."""
    texts = []
    while (step := next_plan(plan)) is not None:
        plan, text = step
        texts.append(text)
    return texts


def test_the_rungs_go_from_cheap_to_dear():
    assert rungs(PLAN) == [
        "2 micro-batches of 2",
        "4 micro-batches of 1",
        "recomputed activations",
        "10 views",
        "8 views",
        "rank 5",
        "rank 4",
        "no test-time training",
    ]


def test_full_fine_tuning_has_no_rank_and_a_model_without_blocks_no_recomputation():
    assert rungs(TaskPlan(1, num_views=8, rank=None, can_recompute=False)) == ["no test-time training"]


def test_the_first_plan_that_fits_is_used():
    tried, log = [], []

    def attempt(plan: TaskPlan) -> str:
        tried.append(plan)
        if not plan.recompute:
            raise MemoryError
        return "fits"

    result, plan = run_with_ladder(PLAN, attempt, log.append)
    assert result == "fits" and plan == tried[-1] and len(tried) == 4 and len(log) == 3


def test_the_failed_attempt_is_released_before_the_next_one():
    """The traceback would hold its tensors."""
    import weakref

    class Buffer:
        pass

    references = []

    def attempt(plan: TaskPlan) -> bool:
        buffer = Buffer()
        references.append(weakref.ref(buffer))
        if len(references) == 1:
            raise MemoryError
        return references[0]() is None

    assert run_with_ladder(PLAN, attempt, lambda text: None)[0]


@pytest.mark.parametrize("error", [RuntimeError("shapes differ"), OSError(2, "no file")])
def test_a_failure_of_another_kind_is_raised_at_once(error):
    log = []

    def attempt(plan: TaskPlan) -> None:
        raise error

    with pytest.raises(type(error)):
        run_with_ladder(PLAN, attempt, log.append)
    assert log == []


def test_without_a_smaller_plan_the_error_is_raised():
    def attempt(plan: TaskPlan) -> None:
        raise MemoryError("planted")

    with pytest.raises(MemoryError, match="planted"):
        run_with_ladder(TaskPlan(1, trains=False), attempt, lambda text: None)
