"""Test grids as text: what is written is read back, and what is no grid is refused with its place, never evaluated."""

import ast
import random
from pathlib import Path

import numpy as np
import pytest

from provenlm.domains.grids.content.puzzle import GridPair
from provenlm.domains.grids.evaluate.solve import grid_text
from provenlm.domains.grids.evaluate.solve.grid_text import GridTextError, format_answer, format_pair, format_question, parse_answer

GRID = np.array([[0, 1, 0], [9, 9, 2]], np.uint8)


def test_a_pair_is_digits_and_separators():
    assert format_pair(GridPair(GRID, GRID[:1])) == "I\n010\n992\nO\n010\n\n"
    assert format_question(GRID) + format_answer(GRID[:1]) == format_pair(GridPair(GRID, GRID[:1]))


def test_a_hidden_output_is_not_written():
    with pytest.raises(ValueError, match="must have an output"):
        format_pair(GridPair(GRID, None))


def test_what_follows_the_empty_line_is_not_read():
    assert np.array_equal(parse_answer("010\n992\n\nI\n5"), GRID)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "answer: must end with an empty line, got 1 rows without one"),
        ("01\n", "must end with an empty line"),
        ("\n\n", "answer: must have 1 to 30 rows, got 0"),
        ("0\n" * 31 + "\n", "answer: must have 1 to 30 rows, got 31"),
        ("0" * 31 + "\n\n", "answer: must have 1 to 30 columns, got 31"),
        ("01\n0\n\n", "answer, row 2: must have 2 cells as row 1, got 1"),
        ("0x\n\n", "answer, row 1: must have digits 0 to 9 only, got 'x'"),
        ("٣\n\n", "got '٣'"),  # a digit elsewhere, to str.isdigit too
        ("[[1, 2]]\n\n", "got '['"),
        ("__import__('os').abort()\n\n", "got '_'"),
    ],
)
def test_text_that_is_no_grid_is_refused(text, message):
    with pytest.raises(GridTextError) as error:
        parse_answer(text)
    assert message in str(error.value)


def test_random_grids_are_read_back():
    generator = np.random.default_rng(0)
    for _ in range(300):
        grid = generator.integers(0, 10, generator.integers(1, 31, 2)).astype(np.uint8)
        assert np.array_equal(parse_answer(format_answer(grid)), grid)


def test_random_text_gives_a_grid_or_a_grid_text_error():
    """Half of the texts are valid ones with a few characters replaced."""
    generator = random.Random(0)
    characters = "0123456789\n\n\nIO ,[]()x\0\r\u0663é"
    num_grids = 0
    for number in range(3000):
        text = "".join(generator.choices(characters, k=generator.randrange(12)))
        if number % 2:
            text = list(format_answer(GRID))
            for _ in range(generator.randrange(3)):
                text[generator.randrange(len(text))] = generator.choice(characters)
            text = "".join(text)
        try:
            grid = parse_answer(text)
        except GridTextError:
            continue
        num_grids += 1
        assert grid.dtype == np.uint8 and grid.ndim == 2 and grid.max() <= 9
        assert text.startswith(format_answer(grid))
    assert 300 < num_grids < 2700


def test_the_parser_evaluates_nothing():
    tree = ast.parse(Path(grid_text.__file__).read_text(encoding="utf-8"))
    called = {ast.unparse(node.func).rpartition(".")[2] for node in ast.walk(tree) if isinstance(node, ast.Call)}
    assert not called & {"eval", "exec", "literal_eval", "loads", "compile", "__import__"} and "index" in called
