"""The text of a bound in, a test of a number against it out: `a..b`, `< x`, `<= x`, `> x`, `>= x`, `== x`.

x is a number, the id of a figure, or a number times an id (`subject/stage.figure`).
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from provenlm.core.errors import UserError
from provenlm.reporting.evidence import IDENTITY

Number = int | float

NUMBER = re.compile(r"[+-]?\d[\d_]*(\.\d[\d_]*)?([eE][+-]?\d\d?\d?)?", re.ASCII)
RELATIONS: dict[str, Callable[[Number, Number], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
GRAMMAR = "write `a..b`, `< x`, `<= x`, `> x`, `>= x` or `== x`, where x is a number, a figure's id or a number times an id"


@dataclass(frozen=True)
class Term:
    """A number, or `number` times the figure called `figure`."""

    number: Number
    figure: str | None


@dataclass(frozen=True)
class Bound:
    """`text` as the user wrote it; a value holds if it stands in each relation to its term."""

    text: str
    tests: Sequence[tuple[str, Term]]

    def needs(self) -> list[str]:
        """The figures that must be known before a value can be judged."""
        return [term.figure for _, term in self.tests if term.figure]

    def admits(self, value: Number, known: Mapping[str, Number]) -> bool:
        """Whether `value` lies within the bound, given the values of the figures it `needs`."""
        return all(RELATIONS[relation](value, limit) for relation, limit in self._limits(known))

    def attainable(self, ceiling: Number, known: Mapping[str, Number]) -> bool:
        """Whether any value up to `ceiling` is high enough for the bound."""
        up = {">": operator.gt, ">=": operator.ge, "==": operator.ge}
        return all(up[relation](ceiling, limit) for relation, limit in self._limits(known) if relation in up)

    def _limits(self, known: Mapping[str, Number]) -> list[tuple[str, Number]]:
        return [(relation, term.number * known[term.figure] if term.figure else term.number) for relation, term in self.tests]


@dataclass(frozen=True)
class Wanted:
    """One row of a report's bounds: the bound, and the advice to show when it does not hold."""

    bound: Bound
    advice: str


def wanted(rows: Mapping[str, Mapping[str, str]], where: str) -> dict[str, Wanted]:
    """The `bounds` of a report by figure. UserError, which begins with `where`, for a wrong key or a wrong bound."""
    return {figure: _wanted(row, f"{where}.{figure}") for figure, row in rows.items()}


def _wanted(row: Mapping[str, str], where: str) -> Wanted:
    if unknown := set(row) - {"bound", "else"}:
        raise UserError(f"{where}: unknown key {min(unknown)!r}; known: bound, else")
    if missing := {"bound", "else"} - set(row):
        raise UserError(f"{where}: missing key {min(missing)!r}; known: bound, else")
    return Wanted(parse(row["bound"], f"{where}.bound"), row["else"])


def parse(text: str, where: str) -> Bound:
    """The bound that `text` says. UserError, which begins with `where` and gives the grammar, if it says none."""
    words = text.strip()
    if ".." in words:
        low, high = (_term(part, text, where) for part in words.split("..", maxsplit=True))
        if low.figure is None and high.figure is None and low.number > high.number:
            raise UserError(f"{where}: {text!r} admits nothing: its lower end is above its upper")
        return Bound(words, [(">=", low), ("<=", high)])
    for relation in RELATIONS:
        if words.startswith(relation):
            return Bound(words, [(relation, _term(words.removeprefix(relation), text, where))])
    raise UserError(f"{where}: {text!r} is no bound; {GRAMMAR}")


def _term(words: str, text: str, where: str) -> Term:
    factor, star, figure = (part.strip() for part in words.strip().rpartition("*"))
    if star and NUMBER.fullmatch(factor) and IDENTITY.fullmatch(figure):
        return Term(_number(factor), figure)
    if not star and NUMBER.fullmatch(figure):
        return Term(_number(figure), None)
    if not star and IDENTITY.fullmatch(figure):
        return Term(1, figure)
    raise UserError(f"{where}: {text!r} is no bound: {words.strip()!r} is neither a number nor a figure's id; {GRAMMAR}")


def _number(text: str) -> Number:
    """Exact where it can be: a whole number written with an exponent is whole, because counts are compared with it."""
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else float(value)
