"""Parse the expectation of a check: `a..b`, `< x`, `<= x`, `> x`, `>= x`, `== x`.

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
ResolveName = Callable[[str], str]  # the full id of a metric that is named without subject and stage

STANDARD = "standard"  # the checks that the audits of the stages bring with them
CHECK_KEYS = ("expect", "hint")
METRIC_NAME = re.compile(r"[A-Za-z_][^\s*]*", re.ASCII)
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
    """Hold an operand of a comparison: `factor`, or `factor` times a metric."""

    factor: Number
    metric_id: str | None


@dataclass(frozen=True)
class Threshold:
    """Compare a value with one or two operands.

    `text` is the expression in params.yaml.
    """

    text: str
    conditions: Sequence[tuple[str, Operand]]

    def dependencies(self) -> list[str]:
        """Return the ids of the metrics that the expression refers to."""
        return [operand.metric_id for _, operand in self.conditions if operand.metric_id]

    def holds(self, value: Number, metric_values: Mapping[str, Number]) -> bool:
        """Return whether `value` satisfies every condition, for these `dependencies`."""
        return all(OPERATORS[relation](value, limit) for relation, limit in self._resolve(metric_values))

    def reachable(self, max_value: Number, metric_values: Mapping[str, Number]) -> bool:
        """Return whether `max_value` is high enough to satisfy every condition."""
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
    """Pair a metric and its threshold with the hint to show when the check fails."""

    metric_id: str
    threshold: Threshold
    hint: str


@dataclass(frozen=True)
class ChecksConfig:
    """Hold the parsed `checks` of a report.

    `standard` is whether the standard checks of its stages apply; `custom` are the report's own checks.
    """

    standard: bool
    custom: Sequence[CheckSpec]


def parse_checks(value: object, location: str) -> ChecksConfig:
    """Parse the `checks` of a report.

    They are "standard", a mapping of metric id to {expect, hint}, or a list of these.

    Raise ConfigError for anything else, with `location` as the prefix of the message.
    """
    parts = value if isinstance(value, list) else [value]
    standard, custom = False, []
    for part in parts:
        if part == STANDARD:
            standard = True
        elif isinstance(part, Mapping):
            custom += [_parse_check(str(metric_id), entry, f"{location}.{metric_id}") for metric_id, entry in part.items()]
        else:
            raise ConfigError(
                f"{location}: must be {STANDARD!r}, a mapping of metric id to expect and hint, or a list of these, got {part!r}"
            )
    return ChecksConfig(standard, custom)


def _parse_check(metric_id: str, entry: object, location: str) -> CheckSpec:
    if not METRIC_ID.fullmatch(metric_id):
        raise ConfigError(f"{location}: must be a metric id such as my_recipe/validate.val.loss, got {metric_id!r}")
    if not isinstance(entry, Mapping):
        raise ConfigError(f"{location}: must be a mapping with the keys {', '.join(CHECK_KEYS)}, got {entry!r}")
    if unknown := set(entry) - set(CHECK_KEYS):
        raise ConfigError(f"{location}: unknown key {min(unknown)!r}; known: {', '.join(CHECK_KEYS)}")
    for key in CHECK_KEYS:
        if key not in entry:
            raise ConfigError(f"{location}: missing key {key!r}; required: {', '.join(CHECK_KEYS)}")
        if not isinstance(entry[key], str):
            raise ConfigError(f"{location}.{key}: must be text, got {entry[key]!r}")
    return CheckSpec(metric_id, parse_threshold(entry["expect"], f"{location}.expect", metric_id), entry["hint"])


def parse_threshold(text: str, location: str, metric_id: str = "", resolve_name: ResolveName | None = None) -> Threshold:
    """Parse the expectation for `metric_id`.

    Raise ConfigError if it is malformed, can never hold or refers to the metric itself.

    `resolve_name` completes an operand that is no full metric id; None: only full ids are allowed.
    """
    expression = text.strip()
    threshold: Threshold | None = None
    if ".." in expression:
        low, high = (_parse_operand(part, text, location, resolve_name) for part in expression.split("..", maxsplit=True))
        if low.metric_id is None and high.metric_id is None and low.factor > high.factor:
            raise ConfigError(f"{location}: the lower end of a range must be at most its upper end, got {text!r}")
        threshold = Threshold(expression, [(">=", low), ("<=", high)])
    elif relation := next((relation for relation in OPERATORS if expression.startswith(relation)), None):
        operand = _parse_operand(expression.removeprefix(relation), text, location, resolve_name)
        threshold = Threshold(expression, [(relation, operand)])
    if threshold is None:
        raise ConfigError(f"{location}: {GRAMMAR}; got {text!r}")
    if metric_id in threshold.dependencies():
        raise ConfigError(f"{location}: must not compare a metric with itself, got {text!r}")
    return threshold


def _parse_operand(expression: str, text: str, location: str, resolve_name: ResolveName | None) -> Operand:
    factor, star, operand = (part.strip() for part in expression.strip().rpartition("*"))
    if not star and NUMBER_PATTERN.fullmatch(operand):
        return Operand(_parse_number(operand), None)
    if not star or NUMBER_PATTERN.fullmatch(factor):
        number = _parse_number(factor) if star else 1
        if METRIC_ID.fullmatch(operand):
            return Operand(number, operand)
        if resolve_name and METRIC_NAME.fullmatch(operand):
            return Operand(number, resolve_name(operand))
    raise ConfigError(f"{location}: {GRAMMAR}; got {text!r}, in which {expression.strip()!r} is neither a number nor a metric id")


def _parse_number(text: str) -> Number:
    """Return an int for a whole number, because counts are compared exactly.

    A whole number may have an exponent.
    """
    value = Decimal(text)
    return int(value) if value == value.to_integral_value() else float(value)
