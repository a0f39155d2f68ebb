"""Audits in, figures by id out; an id that no audit can hold is a `UserError` that names the closest ones."""

import difflib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from provenlm.core.audit import Audit, Figure
from provenlm.core.errors import UserError

IDENTITY = re.compile(r"(\S+?/[^\s/.]+)\.(\S+)")  # subject/stage.figure; the subject may be of a family, as in music/vae
ABSENT = "none"  # an empty list or text in the settings


@dataclass(frozen=True)
class Source:
    """Where figures come from: an audit, its file as the page links to it, and that file's digest. `audit` is None if not there."""

    subject: str
    stage: str
    path: str
    digest: str
    audit: Audit | None

    @property
    def name(self) -> str:
        return f"{self.subject}/{self.stage}"

    def present(self) -> Audit:
        """The audit; LookupError if it was not there."""
        if self.audit is None:
            raise LookupError(f"{self.name}: no audit")
        return self.audit


@dataclass(frozen=True)
class Evidence:
    """Every source that a report covers, in the order in which the pipeline runs."""

    sources: tuple[Source, ...]

    def source(self, figure: str, where: str) -> Source:
        """The source that a figure's id names. UserError if the report does not cover it."""
        name, _ = split(figure)
        for source in self.sources:
            if source.name == name:
                return source
        known = [source.name for source in self.sources]
        raise UserError(f"{where}: {figure!r}: this report covers no {name!r}{closest(name, known)}; covered: {', '.join(known)}")

    def figure(self, figure: str, where: str) -> Figure | None:
        """The figure of that id; None if its audit is not there. UserError if the audit is there and does not hold it."""
        audit = self.source(figure, where).audit
        if audit is None:
            return None
        _, name = split(figure)
        if name not in audit.figures:
            hint = closest(name, audit.figures)
            raise UserError(
                f"{where}: nobody measured {name!r}: the audit of {audit.subject}/{audit.stage} has no such figure{hint}"
            )
        return audit.figures[name]

    def failure(self, figure: str, where: str) -> str | None:
        """The id of the error that kept `figure` from being measured: an `.error` beside or above it. None if there is none."""
        source = self.source(figure, where)
        errors = failures(source)
        _, name = split(figure)
        parents = [f"{source.name}.{name[:i]}.error" for i, letter in enumerate(name) if letter == "."]
        own = [f"{source.name}.error", f"{source.name}.{name}.error"]
        return next((error for error in (*reversed(parents), *own) if error in errors), None)

    def beside(self, figure: str, where: str) -> dict[str, Figure]:
        """By id the ceiling and the chance level that its audit gives for `figure`, or for the figure whose interval it ends."""
        source, (_, name) = self.source(figure, where), split(figure)
        figures = source.audit.figures if source.audit else {}
        whole = name.removesuffix(".low").removesuffix(".high")
        return {f"{source.name}.{n}": figures[n] for word in ("ceiling", "chance") if (n := f"{whole}.{word}") in figures}

    def absent(self) -> list[Source]:
        return [source for source in self.sources if source.audit is None]


def failures(source: Source) -> Mapping[str, Figure]:
    """The figures of a source that say, in words, what a probe raised; by id."""
    figures = source.audit.figures if source.audit else {}
    return {
        f"{source.name}.{name}": figure
        for name, figure in figures.items()
        if name.split(".")[-1] == "error" and isinstance(figure.value, str)
    }


def closest(word: str, known: Iterable[str]) -> str:
    """A hint that names what was probably meant, or nothing."""
    close = difflib.get_close_matches(word, list(known))
    return f" (did you mean {' or '.join(map(repr, close))}?)" if close else ""


def split(figure: str) -> tuple[str, str]:
    """The id `subject/stage.figure` as `subject/stage` and `figure`; what is no id is of no source."""
    found = IDENTITY.fullmatch(figure)
    return (found[1], found[2]) if found else (figure, "")


def leaves(value: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf of a nested value with its dotted key."""
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from leaves(item, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list):
        yield prefix, ", ".join(map(_word, value)) or ABSENT
    else:
        yield prefix, _word(value) or ABSENT


def _word(value: Any) -> str:
    """As it would stand in params.yaml: null, true, false."""
    return json.dumps(value) if value is None or isinstance(value, bool) else str(value)
