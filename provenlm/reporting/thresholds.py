"""Parse the expectation of a check: `a..b`, `< x`, `<= x`, `> x`, `>= x` or `== x`.

x is a number, a metric id (`subject/stage.metric`) or a number times a metric id.
"""

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from provenlm.core.errors import ConfigError
from provenlm.reporting.evidence import METRIC_ID

Number = int | float

CHECK_KEYS = ("expect", "hint")
NUMBER_PATTERN = re.compile(r"[+-]?\d[\d_]*(\.\d[\d_]*)?([eE][+-]?\d\d?\d?)?", re.ASCII)
OPERATORS: dict[str, Callable[[Number, Number], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
GRAMMAR = "must be `a..b`, `< x`, `<= x`, `> x`, `>= x` or `== x`, where x is a number, a metric id or a number times a metric id"


@dataclass(frozen=True)
class Operand:
    """Hold one side of a comparison: `factor`, or `factor` times the metric `metric_id`."""

    factor: Number
    metric_id: str | None


@dataclass(frozen=True)
class Threshold:
    """Compare a value with one or two operands; `text` is the expression in params.yaml."""

    text: str
    conditions: Sequence[tuple[str, Operand]]

    def dependencies(self) -> list[str]:
        """Return the ids of the metrics that the expression refers to."""
        return [operand.metric_id for _, operand in self.conditions if operand.metric_id]

    def holds(self, value: Number, metric_values: Mapping[str, Number]) -> bool:
        """Return whether `value` satisfies every condition, given the values of the `dependencies`."""
        return all(OPERATORS[relation](value, limit) for relation, limit in self._resolve(metric_values))

    def reachable(self, max_value: Number, metric_values: Mapping[str, Number]) -> bool:
        """Return whether any value up to `max_value` is high enough to satisfy every condition."""
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
    """Pair the threshold of a check with the hint that the report shows when the check fails."""

    threshold: Threshold
    hint: str


def parse_checks(checks: Mapping[str, Mapping[str, str]], location: str) -> dict[str, CheckSpec]:
    """Parse the `checks` of a report by metric id; raise ConfigError for a wrong key or expression in `location`."""
    return {metric_id: _parse_check(entry, f"{location}.{metric_id}") for metric_id, entry in checks.items()}


def _parse_check(entry: Mapping[str, str], location: str) -> CheckSpec:
    if unknown := set(entry) - set(CHECK_KEYS):
        raise ConfigError(f"{location}: unknown key {min(unknown)!r}; known: {', '.join(CHECK_KEYS)}")
    if missing := set(CHECK_KEYS) - set(entry):
        raise ConfigError(f"{location}: missing key {min(missing)!r}; required: {', '.join(CHECK_KEYS)}")
    return CheckSpec(parse_threshold(entry["expect"], f"{location}.expect"), entry["hint"])


def parse_threshold(text: str, location: str) -> Threshold:
    """Parse one expression; raise ConfigError with the grammar if it is malformed or can never hold."""
    expression = text.strip()
    if ".." in expression:
        low, high = (_parse_operand(part, text, location) for part in expression.split("..", maxsplit=True))
        if low.metric_id is None and high.metric_id is None and low.factor > high.factor:
            raise ConfigError(f"{location}: the lower end of a range must be at most its upper end, got {text!r}")
        return Threshold(expression, [(">=", low), ("<=", high)])
    for relation in OPERATORS:
        if expression.startswith(relation):
            return Threshold(expression, [(relation, _parse_operand(expression.removeprefix(relation), text, location))])
    raise ConfigError(f"{location}: {GRAMMAR}; got {text!r}")


def _parse_operand(expression: str, text: str, location: str) -> Operand:
    factor, star, operand = (part.strip() for part in expression.strip().rpartition("*"))
    if star and NUMBER_PATTERN.fullmatch(factor) and METRIC_ID.fullmatch(operand):
        return Operand(_parse_number(factor), operand)
    if not star and NUMBER_PATTERN.fullmatch(operand):
        return Operand(_parse_number(operand), None)
    if not star and METRIC_ID.fullmatch(operand):
        return Operand(1, operand)
    raise ConfigError(f"{location}: {GRAMMAR}; got {text!r}, in which {expression.strip()!r} is neither a number nor a metric id")


def _parse_number(text: str) -> Number:
    """Return an int for a whole number, also with an exponent, because counts are compared exactly."""
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else float(value)
