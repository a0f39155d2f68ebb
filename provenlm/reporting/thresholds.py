"""The text of a bound in, a test of a number against it out: `a..b`, `< x`, `<= x`, `> x`, `>= x`, `== x`.

x is a number, the id of a figure, or a number times an id (`subject/stage.figure`).
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from provenlm.core.errors import ProvenlmError
from provenlm.reporting.evidence import METRIC_ID

Number = int | float

NUMBER_PATTERN = re.compile(r"[+-]?\d[\d_]*(\.\d[\d_]*)?([eE][+-]?\d\d?\d?)?", re.ASCII)
OPERATORS: dict[str, Callable[[Number, Number], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
GRAMMAR = "write `a..b`, `< x`, `<= x`, `> x`, `>= x` or `== x`, where x is a number, a figure's id or a number times an id"


@dataclass(frozen=True)
class Operand:
    """A number, or `number` times the figure called `figure`."""

    factor: Number
    metric_id: str | None


@dataclass(frozen=True)
class Threshold:
    """`text` as the user wrote it; a value holds if it stands in each relation to its term."""

    text: str
    conditions: Sequence[tuple[str, Operand]]

    def dependencies(self) -> list[str]:
        """The figures that must be known before a value can be judged."""
        return [operand.metric_id for _, operand in self.conditions if operand.metric_id]

    def holds(self, value: Number, metric_values: Mapping[str, Number]) -> bool:
        """Whether `value` lies within the bound, given the values of the figures it `needs`."""
        return all(OPERATORS[relation](value, limit) for relation, limit in self._resolve(metric_values))

    def reachable(self, max_value: Number, metric_values: Mapping[str, Number]) -> bool:
        """Whether any value up to `ceiling` is high enough for the bound."""
        lower_bound_operators = {">": operator.gt, ">=": operator.ge, "==": operator.ge}
        return all(
            lower_bound_operators[relation](max_value, limit)
            for relation, limit in self._resolve(metric_values)
            if relation in lower_bound_operators
        )

    def _resolve(self, metric_values: Mapping[str, Number]) -> list[tuple[str, Number]]:
        return [
            (relation, operand.factor * metric_values[operand.metric_id] if operand.metric_id else operand.factor)
            for relation, operand in self.conditions
        ]


@dataclass(frozen=True)
class CheckSpec:
    """One row of a report's bounds: the bound, and the advice to show when it does not hold."""

    threshold: Threshold
    hint: str


def parse_checks(checks: Mapping[str, Mapping[str, str]], location: str) -> dict[str, CheckSpec]:
    """The `bounds` of a report by figure. ProvenlmError, which begins with `where`, for a wrong key or a wrong bound."""
    return {metric_id: _parse_check(entry, f"{location}.{metric_id}") for metric_id, entry in checks.items()}


def _parse_check(entry: Mapping[str, str], location: str) -> CheckSpec:
    if unknown := set(entry) - {"bound", "else"}:
        raise ProvenlmError(f"{location}: unknown key {min(unknown)!r}; known: bound, else")
    if missing := {"bound", "else"} - set(entry):
        raise ProvenlmError(f"{location}: missing key {min(missing)!r}; known: bound, else")
    return CheckSpec(parse_threshold(entry["bound"], f"{location}.bound"), entry["else"])


def parse_threshold(text: str, location: str) -> Threshold:
    """The bound that `text` says. ProvenlmError, which begins with `where` and gives the grammar, if it says none."""
    expression = text.strip()
    if ".." in expression:
        low, high = (_parse_operand(part, text, location) for part in expression.split("..", maxsplit=True))
        if low.metric_id is None and high.metric_id is None and low.factor > high.factor:
            raise ProvenlmError(f"{location}: {text!r} admits nothing: its lower end is above its upper")
        return Threshold(expression, [(">=", low), ("<=", high)])
    for relation in OPERATORS:
        if expression.startswith(relation):
            return Threshold(expression, [(relation, _parse_operand(expression.removeprefix(relation), text, location))])
    raise ProvenlmError(f"{location}: {text!r} is no bound; {GRAMMAR}")


def _parse_operand(expression: str, text: str, location: str) -> Operand:
    factor, star, operand = (part.strip() for part in expression.strip().rpartition("*"))
    if star and NUMBER_PATTERN.fullmatch(factor) and METRIC_ID.fullmatch(operand):
        return Operand(_parse_number(factor), operand)
    if not star and NUMBER_PATTERN.fullmatch(operand):
        return Operand(_parse_number(operand), None)
    if not star and METRIC_ID.fullmatch(operand):
        return Operand(1, operand)
    raise ProvenlmError(
        f"{location}: {text!r} is no bound: {expression.strip()!r} is neither a number nor a figure's id; {GRAMMAR}"
    )


def _parse_number(text: str) -> Number:
    """Exact where it can be: a whole number written with an exponent is whole, because counts are compared with it."""
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else float(value)
