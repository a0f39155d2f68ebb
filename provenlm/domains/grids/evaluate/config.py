"""Define the section `validate.probes` of recipes for puzzles."""

from dataclasses import dataclass


@dataclass(frozen=True)
class GridsEvalConfig:
    """Configure the evaluation of puzzles.

    color_permutations: views of each test input in each symmetry that training showed, each with other colours; 1 with a training that
        permutes none.
    num_examples: solved tasks to draw, and as many unsolved ones.
    """

    color_permutations: int = 8
    num_examples: int = 6

    def __post_init__(self) -> None:
        for name, least in (("color_permutations", 1), ("num_examples", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")
