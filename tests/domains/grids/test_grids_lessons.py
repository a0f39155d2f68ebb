"""Test lessons: every demonstration is asked for without itself in the context, and the answer alone carries loss."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from provenlm.core.errors import ConfigError
from provenlm.domains.grids.content.puzzle import GridPair, Puzzle
from provenlm.domains.grids.content.symmetries import GridView
from provenlm.domains.grids.evaluate.solve.grid_text import format_answer
from provenlm.domains.grids.evaluate.solve.grid_vocabulary import PLAIN_VOCABULARY, grid_vocabulary
from provenlm.domains.grids.evaluate.solve.lessons import (
    Lesson,
    TextLessons,
    encode_lesson,
    leave_one_out,
    question_lessons,
    task_views,
)
from provenlm.models.common.objective import IGNORE


def pair(color: int, width: int = 2) -> GridPair:
    """Return a pair whose output is one row of its colour, and whose input has the colour after it."""
    return GridPair(np.full((1, width), color + 1, np.uint8), np.full((1, width), color, np.uint8))


PUZZLE = Puzzle(
    "a", "toy", "training", (pair(1), pair(3), pair(5)), (GridPair(np.full((2, 3), 7, np.uint8), np.full((2, 3), 9, np.uint8)),)
)


def test_every_demonstration_is_asked_for_once_a_round():
    lessons = leave_one_out(PUZZLE, 6, seed=0)
    assert len(lessons) == 6 and len(leave_one_out(PUZZLE, 4, seed=0)) == 4
    assert [int(lesson.answer[0, 0]) for lesson in lessons[:3]] == [1, 3, 5]  # the first view is the puzzle itself
    for lesson in lessons:
        answers = [context.output.tobytes() for context in lesson.context]
        assert len(answers) == 2 and lesson.answer.tobytes() not in answers


def test_the_order_of_the_context_changes():
    orders = {tuple(int(context.output[0, 0]) > 3 for context in lesson.context) for lesson in leave_one_out(PUZZLE, 48, seed=0)}
    assert len(orders) > 1


def test_views_change_symmetry_and_colours_and_lead_back():
    views = task_views(PUZZLE, 16, seed=0)
    assert views[0] == GridView() and len({view.symmetry for view in views}) == 8 and len({view.colors for view in views}) > 4
    grid = np.arange(6, dtype=np.uint8).reshape(2, 3)
    assert all(np.array_equal(view.invert(view.apply(grid)), grid) for view in views)


def test_lessons_and_questions_do_not_depend_on_test_outputs():
    """A planted solution changes neither views nor lessons nor prompts."""
    other = Puzzle("a", "toy", "training", PUZZLE.train, (GridPair(PUZZLE.test[0].input, np.full((5, 5), 4, np.uint8)),))
    encoded = []
    for puzzle in (PUZZLE, other):
        views = task_views(puzzle, 8, seed=1)
        lessons = [*leave_one_out(puzzle, 12, seed=1), *(lesson for view in views for lesson in question_lessons(puzzle, view, 1))]
        encoded.append([encode_lesson(lesson, PLAIN_VOCABULARY, 500) for lesson in lessons])
    assert encoded[0] == encoded[1]


def test_a_puzzle_of_one_demonstration_has_lessons_without_context():
    lessons = leave_one_out(Puzzle("a", "toy", "training", (pair(1),), PUZZLE.test), 2, seed=0)
    assert [lesson.context for lesson in lessons] == [(), ()]


def test_the_answer_alone_carries_loss():
    lessons = leave_one_out(PUZZLE, 3, seed=0)
    batch = TextLessons(lessons, PLAIN_VOCABULARY, 500).batch([0, 1, 2])
    for inputs_T, targets_T, lesson in zip(batch.inputs_BT, batch.targets_BT, lessons, strict=True):
        positions = (targets_T != IGNORE).nonzero()[:, 0]
        assert (
            PLAIN_VOCABULARY.decode(targets_T[positions].tolist())
            == format_answer(lesson.answer)
            == f"{lesson.answer[0, 0]}" * 2 + "\n\n"
        )
        assert torch.equal(positions, torch.arange(int(positions[0]), int(positions[0]) + 4))
        assert PLAIN_VOCABULARY.decode(inputs_T[: positions[0] + 1].tolist()).endswith("O\n")
        assert torch.equal(inputs_T[positions[1:]], targets_T[positions[:-1]])


def test_the_context_gets_no_gradient_of_the_loss():
    """The loss of a table of next-token logits reaches the rows of the tokens before answers only."""
    lessons = TextLessons(leave_one_out(PUZZLE, 3, seed=0), PLAIN_VOCABULARY, 500)
    batch = lessons.batch([0])
    logits_BTV = torch.zeros(*batch.inputs_BT.shape, 13, requires_grad=True)
    torch.nn.functional.cross_entropy(logits_BTV.flatten(0, 1), batch.targets_BT.flatten(), ignore_index=IGNORE).backward()
    assert torch.equal(logits_BTV.grad.abs().sum(2) > 0, batch.targets_BT != IGNORE)


def test_shorter_lessons_are_padded_without_targets():
    lessons = [Lesson((), pair(1).input, pair(1).output), Lesson((), pair(3, width=9).input, pair(3, width=9).output)]
    batch = TextLessons(lessons, PLAIN_VOCABULARY, 500).batch([0, 1])
    assert batch.inputs_BT.shape == (2, 14 + 11 - 1) and batch.num_targets == (2 + 2) + (9 + 2)
    assert (batch.targets_BT[0] != IGNORE).nonzero()[:, 0].tolist() == [6, 7, 8, 9] and batch.targets_BT[1, -1] != IGNORE


def test_demonstrations_are_left_out_until_a_lesson_fits():
    """A pair is 11 characters, the question 7 and the answer 4."""
    lesson = leave_one_out(PUZZLE, 1, seed=0)[0]
    lengths = {size: sum(map(len, encode_lesson(lesson, PLAIN_VOCABULARY, size) or ())) for size in (33, 32, 22, 21, 11, 10)}
    assert lengths == {33: 33, 32: 22, 22: 22, 21: 11, 11: 11, 10: 0}
    prompt, answer = encode_lesson(lesson, PLAIN_VOCABULARY, 32)
    assert PLAIN_VOCABULARY.decode(prompt + answer).endswith("I\n22\nO\n11\n\n")


def test_lessons_that_do_not_fit_are_counted_or_refused():
    wide = Puzzle("a", "toy", "training", (pair(1), pair(3, width=9)), PUZZLE.test)
    lessons = TextLessons(leave_one_out(wide, 4, seed=0), PLAIN_VOCABULARY, 16)
    assert (len(lessons), lessons.num_refused) == (2, 2)
    with pytest.raises(ConfigError, match="got 9, which holds none of 4 lessons"):
        TextLessons(leave_one_out(wide, 4, seed=0), PLAIN_VOCABULARY, 9)


class ToyTokenizer:
    """Join digits as the tokenizer of Llama 3 does, and have single characters too."""

    bos_token_id, unk_token_id = 100, 101

    def __init__(self, newline: str = "Ċ", without: str = "") -> None:
        self.vocab = {character: number for number, character in enumerate(f"0123456789IO{newline}") if character not in without}

    def get_vocab(self) -> dict[str, int]:
        return {**self.vocab, "010": 50}

    def encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return [self.vocab.get(text, self.unk_token_id)]


def test_every_cell_is_one_token_of_a_tokenizer_that_joins_digits():
    vocabulary = grid_vocabulary(ToyTokenizer())
    assert vocabulary.encode("010\n") == [0, 1, 0, 12] and vocabulary.prefix == (100,)
    assert vocabulary.decode([0, 1, 0, 12]) == "010\n" and vocabulary.answer_ids == [*range(10), 12]


@pytest.mark.parametrize("missing", ["7", "Ċ"])
def test_a_tokenizer_without_a_token_for_a_character_is_refused(missing):
    with pytest.raises(ConfigError, match="must have a token for each"):
        grid_vocabulary(ToyTokenizer(without=missing))


def test_the_tokens_of_a_prefix_count():
    vocabulary = grid_vocabulary(
        SimpleNamespace(get_vocab=ToyTokenizer().get_vocab, encode=ToyTokenizer().encode, bos_token_id=5, unk_token_id=None)
    )
    prompt, _ = encode_lesson(leave_one_out(PUZZLE, 1, seed=0)[0], vocabulary, 33)
    assert prompt[0] == 5 and len(prompt) == 1 + 11 + 7
