"""Turn the demonstrations of a puzzle into lessons for a language model.

A lesson leaves one demonstration out and asks for it; the others are its context. Test pairs are never read.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from provenlm.core import rng
from provenlm.core.errors import ConfigError
from provenlm.domains.grids.content.puzzle import Grid, GridPair, Puzzle
from provenlm.domains.grids.content.symmetries import GridView, draw_views
from provenlm.domains.grids.evaluate.solve.grid_text import format_answer, format_pair, format_question
from provenlm.domains.grids.evaluate.solve.grid_vocabulary import GridVocabulary
from provenlm.models.common.objective import IGNORE, TokenBatch


@dataclass(frozen=True)
class Lesson:
    """Hold a question with pairs that show the rule.

    `answer` is None where it is to be predicted.
    """

    context: tuple[GridPair, ...]
    question: Grid
    answer: Grid | None


def hide_test_outputs(puzzle: Puzzle) -> Puzzle:
    """Return a puzzle without the outputs of its test pairs."""
    return replace(puzzle, test=tuple(replace(pair, output=None) for pair in puzzle.test))


def task_views(puzzle: Puzzle, num_views: int, seed: int) -> list[GridView]:
    """Draw symmetries and permutations of colours, the puzzle itself first.

    They do not depend on test outputs.
    """
    return draw_views(hide_test_outputs(puzzle), num_views, seed)


def leave_one_out(puzzle: Puzzle, num_lessons: int, seed: int) -> list[Lesson]:
    """Return `num_lessons` lessons, in which every demonstration is asked for in turn.

    Each round shows all demonstrations in another view, and each lesson its context in another order.
    """
    num_pairs = len(puzzle.train)
    generator = rng.make_rng(seed, "lessons", puzzle.collection, puzzle.id)
    lessons: list[Lesson] = []
    for view in task_views(puzzle, -(-num_lessons // num_pairs), seed):
        pairs = view.apply_to_puzzle(hide_test_outputs(puzzle)).train
        for asked in range(num_pairs):
            context = [int(number) for number in generator.permutation(num_pairs) if number != asked]
            lessons.append(Lesson(tuple(pairs[number] for number in context), pairs[asked].input, pairs[asked].output))
    return lessons[:num_lessons]


def question_lessons(puzzle: Puzzle, view: GridView, seed: int) -> list[Lesson]:
    """Return a view of each test input as a lesson without an answer.

    Its context is all demonstrations, in some order.
    """
    shown = view.apply_to_puzzle(hide_test_outputs(puzzle))
    order = rng.make_rng(seed, "context", puzzle.collection, puzzle.id, view.symmetry, *view.colors).permutation(len(shown.train))
    return [Lesson(tuple(shown.train[number] for number in order), pair.input, None) for pair in shown.test]


def encode_lesson(
    lesson: Lesson, vocabulary: GridVocabulary, max_tokens: int, answer_tokens: int = 0
) -> tuple[list[int], list[int]] | None:
    """Return the tokens of a lesson up to its answer, and those of the answer.

    The latter are empty without an answer. Where they are more than `max_tokens`, less `answer_tokens` for an answer to come, the
    first demonstrations are left out.
    None if question and answer alone are too long.
    """
    question = vocabulary.encode(format_question(lesson.question))
    answer = [] if lesson.answer is None else vocabulary.encode(format_answer(lesson.answer))
    room = max_tokens - len(vocabulary.prefix) - len(question) - len(answer) - answer_tokens
    if room < 0:
        return None
    context: list[int] = []
    for pair in reversed(lesson.context):
        tokens = vocabulary.encode(format_pair(pair))
        if len(tokens) + len(context) > room:
            break
        context = tokens + context
    return [*vocabulary.prefix, *context, *question], answer


class TextLessons:
    """Hold the encoded lessons of a puzzle; the answer alone carries loss.

    `num_refused` counts those that do not fit. Raises ConfigError if none does.
    """

    def __init__(self, lessons: Sequence[Lesson], vocabulary: GridVocabulary, max_tokens: int) -> None:
        encoded = [encode_lesson(lesson, vocabulary, max_tokens) for lesson in lessons]
        self._items = [item for item in encoded if item is not None]
        self.num_refused = len(encoded) - len(self._items)
        if not self._items:
            raise ConfigError(
                f"max_tokens: must hold a question and its answer, got {max_tokens}, which holds none of {len(lessons)} lessons"
            )

    def __len__(self) -> int:
        return len(self._items)

    def batch(self, indices: Sequence[int]) -> TokenBatch:
        """Return lessons as a batch, padded at the right without targets."""
        items = [self._items[index] for index in indices]
        seq_len = max(len(prompt) + len(answer) for prompt, answer in items) - 1
        inputs = np.zeros((len(items), seq_len), np.int64)
        targets = np.full((len(items), seq_len), IGNORE, np.int64)
        for row, (prompt, answer) in enumerate(items):
            tokens = [*prompt, *answer]
            inputs[row, : len(tokens) - 1] = tokens[:-1]
            inputs[row, len(tokens) - 1 :] = tokens[-1]
            targets[row, len(prompt) - 1 : len(tokens) - 1] = answer
        return TokenBatch(to_tensor(inputs), to_tensor(targets))


def to_tensor(array: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Tensor:
    """Convert an array to a tensor that shares its memory."""
    return torch.from_numpy(array)
