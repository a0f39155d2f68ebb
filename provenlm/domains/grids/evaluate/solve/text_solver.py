"""Solve one puzzle with a language model trained on its demonstrations.

Lessons, test-time training, greedy answers in several views, and a vote. The functions here run in a worker process of their own.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.errors import CheckpointError
from provenlm.domains.grids.content.puzzle import Puzzle
from provenlm.domains.grids.evaluate.adaptation.adapted_model import adapted_model
from provenlm.domains.grids.evaluate.adaptation.causal_lm import answer_loss, greedy_answers
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig, FineTuningConfig
from provenlm.domains.grids.evaluate.adaptation.fine_tuning import FineTuningResult, fine_tune
from provenlm.domains.grids.evaluate.adaptation.pretrained import load_pretrained
from provenlm.domains.grids.evaluate.budgets.oom_ladder import TaskPlan, run_with_ladder
from provenlm.domains.grids.evaluate.budgets.outcome import TaskOutcome
from provenlm.domains.grids.evaluate.budgets.worker import TaskChannel
from provenlm.domains.grids.evaluate.solve.grid_text import MAX_ANSWER_CHARACTERS, ROW_END, GridTextError, parse_answer
from provenlm.domains.grids.evaluate.solve.grid_vocabulary import GridVocabulary, grid_vocabulary
from provenlm.domains.grids.evaluate.solve.lessons import (
    TextLessons,
    encode_lesson,
    hide_test_outputs,
    leave_one_out,
    question_lessons,
    task_views,
)
from provenlm.domains.grids.evaluate.submission import NUM_ATTEMPTS, attempts_json, fallback_attempts
from provenlm.domains.grids.evaluate.voting import ViewPrediction, vote

MAX_RESERVED_TOKENS = 256  # of the context, for an answer to come
PRELOADED_MODULES = (
    "peft.tuners.lora",
    "provenlm.domains.grids.evaluate.solve.text_solver",
)  # by the fork server: seconds for each worker
TRAINING_FRAC = 0.7  # of the time of a task


@dataclass(frozen=True)
class TextSolverConfig:
    """Configure lessons, training and prediction of a puzzle.

    The defaults are those of Akyürek et al. (arXiv 2411.07279) where they fit: rank 64, at most 250 lessons, two epochs.
    """

    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    fine_tuning: FineTuningConfig = field(default_factory=lambda: FineTuningConfig(num_steps=250))
    num_lessons: int = 250
    num_views: int = 16
    max_tokens: int = 8192
    micro_batch_size: int = 2
    seed: int = 0


@dataclass(frozen=True)
class TextTask:
    """Hold what a worker needs for one puzzle: its hidden outputs are None.

    `load_model()` returns the model and its vocabulary; it must be a function of a module, or a partial of one.
    """

    puzzle: Puzzle
    config: TextSolverConfig
    load_model: Callable[[], tuple[nn.Module, GridVocabulary]]


def load_text_model(source: str, dtype: torch.dtype = torch.float32, device: str = "cpu") -> tuple[nn.Module, GridVocabulary]:
    """Load a pretrained model and the tokens of grids."""
    pretrained = load_pretrained(source, dtype, device)
    if pretrained.tokenizer is None:
        raise CheckpointError(f"{source}: must have the files of a tokenizer, such as tokenizer.json")
    return pretrained.model, grid_vocabulary(pretrained.tokenizer)


def solve_text_task(task: TextTask, channel: TaskChannel) -> TaskOutcome:
    """Solve a puzzle within the limits of its worker.

    Sends first what needs no model, so that a fault costs no answer. What runs out of memory is tried again with less.
    """
    puzzle = hide_test_outputs(task.puzzle)
    channel.send_answer(TaskOutcome(attempts_json(fallback_attempts(puzzle))))
    model, vocabulary = task.load_model()
    config = task.config
    rank = config.adapter.rank if config.adapter.method == "lora" else None
    num_micro_batches = -(-config.fine_tuning.batch_size // config.micro_batch_size)
    plan = TaskPlan(
        config.micro_batch_size, num_micro_batches, num_views=config.num_views, rank=rank, trains=config.adapter.method != "none"
    )

    def attempt(plan: TaskPlan) -> TaskOutcome:
        """Train and predict as planned."""
        return solve_puzzle(puzzle, model, vocabulary, config, plan, channel)

    return run_with_ladder(plan, attempt, channel.log_rung)[0]


def solve_puzzle(
    puzzle: Puzzle, model: nn.Module, vocabulary: GridVocabulary, config: TextSolverConfig, plan: TaskPlan, channel: TaskChannel
) -> TaskOutcome:
    """Train on the demonstrations, answer in several views, vote.

    The model is the base again afterwards.
    """
    adapter = replace(config.adapter, rank=plan.rank or config.adapter.rank) if plan.trains else AdapterConfig(method="none")
    result, num_refused = FineTuningResult(0, 0, (), 0.0), 0
    stops_training_at = time.monotonic() + TRAINING_FRAC * channel.seconds_left
    max_tokens = min(config.max_tokens, _max_positions(model))
    with adapted_model(model, adapter) as adapted:
        if plan.trains:
            lessons = TextLessons(leave_one_out(puzzle, config.num_lessons, config.seed), vocabulary, max_tokens)
            num_refused = lessons.num_refused
            result = fine_tune(
                adapted,
                lessons,
                answer_loss(model),
                config.fine_tuning,
                plan.micro_batch_size,
                plan.recompute,
                lambda: time.monotonic() > stops_training_at,
            )
        answers = answer_views(puzzle, model, vocabulary, config, plan, max_tokens, channel)
    ranked = [vote([answer for answer in group if answer is not None]) for group in answers]
    attempts = [
        [candidate.grid for candidate in group[:NUM_ATTEMPTS]] or fallback
        for group, fallback in zip(ranked, fallback_attempts(puzzle), strict=True)
    ]
    return TaskOutcome(
        answer=attempts_json(attempts),
        num_trainable_params=result.num_trainable_params,
        num_steps=result.num_steps,
        first_loss=result.losses[0] if result.losses else None,
        last_loss=result.losses[-1] if result.losses else None,
        num_views=plan.num_views,
        max_weight_change=result.max_weight_change,
        base_digest=adapted.base_digest,
        num_refused_lessons=num_refused,
        num_unreadable_answers=sum(answer is None for group in answers for answer in group),
        num_fallbacks=sum(not group for group in ranked),
        votes=tuple(candidate.num_votes for group in ranked for candidate in group[:NUM_ATTEMPTS]),
    )


def answer_views(
    puzzle: Puzzle,
    model: nn.Module,
    vocabulary: GridVocabulary,
    config: TextSolverConfig,
    plan: TaskPlan,
    max_tokens: int,
    channel: TaskChannel,
) -> list[list[ViewPrediction | None]]:
    """Return the answers of all views to each test input.

    An answer that is no grid is None.
    """
    queue: dict[int, list[tuple[int, int, list[int]]]] = {}  # by length of the prompt
    views = task_views(puzzle, plan.num_views, config.seed)
    for number, view in enumerate(views):
        for test, lesson in enumerate(question_lessons(puzzle, view, config.seed)):
            encoded = encode_lesson(lesson, vocabulary, max_tokens, min(MAX_RESERVED_TOKENS, max_tokens // 4))
            if encoded is not None:
                queue.setdefault(len(encoded[0]), []).append((number, test, encoded[0]))
    answers: list[list[ViewPrediction | None]] = [[] for _ in puzzle.test]
    device = next(model.parameters()).device
    for length, items in queue.items():
        for start in range(0, len(items), plan.micro_batch_size):
            group = items[start : start + plan.micro_batch_size]
            prompts_BT: Tensor = torch.tensor([tokens for _, _, tokens in group], device=device)
            room = min(MAX_ANSWER_CHARACTERS, max_tokens - length)
            answered = greedy_answers(
                model, prompts_BT, vocabulary.answer_ids, _ends(vocabulary), room, lambda: channel.seconds_left < 1.0
            )
            for (number, test, _), (tokens, log_prob) in zip(group, answered, strict=True):
                try:
                    grid = parse_answer(vocabulary.decode(tokens))
                except GridTextError:
                    answers[test].append(None)
                else:
                    answers[test].append(ViewPrediction(views[number].invert(grid), log_prob))
    return answers


def _ends(vocabulary: GridVocabulary) -> Callable[[Sequence[int]], bool]:
    row_end = vocabulary.ids[ROW_END]
    return lambda tokens: tokens[-1] == row_end and (len(tokens) == 1 or tokens[-2] == row_end)


def _max_positions(model: nn.Module) -> int:
    """Return the most tokens that a model accepts."""
    owner: Any = getattr(model, "config", model)
    return int(getattr(owner, "max_position_embeddings", 0) or 1 << 30)
