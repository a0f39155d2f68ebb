"""What a net that learned strings by heart is asked: to go on from the first characters of each, beside what is attainable."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from provenlm.core.audit import Recorder, Table
from provenlm.layers.sampling import GREEDY
from provenlm.validation.attainable import by_prefix
from provenlm.validation.generation import generate
from provenlm.validation.loss import Losses, of_rows
from provenlm.validation.probe import Probe, Subject, Validating


@dataclass(frozen=True)
class Settings:
    """The `probes` section of a recipe on strings, typed."""

    prompt_characters: tuple[int, ...]  # of each training string; each is measured for itself
    batch_tokens: int

    def __post_init__(self) -> None:
        if not self.prompt_characters or min(self.prompt_characters) < 1 or self.batch_tokens < 1:
            raise ValueError("prompt_characters must name at least one length, none below 1, and batch_tokens be at least 1")


@dataclass(frozen=True)
class Strings:
    """Every training string as ids, and for each how many of its first ids are the prompt."""

    rows: Sequence[Sequence[int]]
    given: Sequence[int]

    def prompts(self) -> list[list[int]]:
        return [list(row[:n]) for row, n in zip(self.rows, self.given, strict=True)]

    def rests(self) -> list[list[int]]:
        return [list(row[n:]) for row, n in zip(self.rows, self.given, strict=True)]


def probes(settings: Settings) -> Mapping[str, Probe]:
    def recall(subject: Subject, figures: Recorder) -> None:
        split = subject.tokens.train
        rows = [split.ids[a:b].tolist() for a, b in zip(split.starts[:-1], split.starts[1:], strict=True)]
        figures.counted("strings", len(rows), "strings", "training strings, each to be completed from its first characters")
        losses = of_rows(subject, rows, settings.batch_tokens, "recall")
        for characters in settings.prompt_characters:
            strings = Strings(rows, [_given(subject, row, characters) for row in rows])
            with figures.under(f"from_{characters}") as inner:
                _completed(inner, subject, strings, losses)
                _told(inner, subject, strings, losses)

    return {"recall": recall}


def _given(subject: Subject, row: Sequence[int], characters: int) -> int:
    """How many ids the prompt of `row` has. ValueError if a prompt is not the beginning of its string."""
    prompt = subject.codec.prompt(subject.codec.decode(row).decode()[:characters])
    if list(row[: len(prompt)]) != prompt or len(prompt) >= len(row):
        raise ValueError(f"the ids of the first {characters} characters are not the first ids of the string")
    return len(prompt)


def _completed(figures: Recorder, subject: Subject, strings: Strings, losses: Losses) -> None:
    """Greedy completion, right only if it is the rest of the string to its end."""
    prompts, rests = strings.prompts(), strings.rests()
    made = generate(subject, prompts, GREEDY, max(map(len, rests)), torch.Generator())
    right = [one[: len(rest)] == rest for one, rest in zip(made, rests, strict=True)]
    ceiling = attainable(prompts, rests)
    chance = sum(float(subject.tokens.vocabulary) ** -len(rest) for rest in rests)
    figures.measured("right", sum(right), "strings", "training strings completed to the last character by greedy generation")
    meaning = "strings that can be completed at most: equal prompts have one completion"
    figures.counted("right.ceiling", ceiling, "strings", meaning)
    figures.counted("right.chance", chance, "strings", "expected number completed by drawing every token at random")
    figures.measured("missed", ceiling - sum(right), "strings", "ceiling minus strings completed: nought is all that can be had")
    places = losses.place + 1  # of each target within its string
    whole = [bool(losses.right[(losses.document == n) & (places >= given)].all()) for n, given in enumerate(strings.given)]
    meaning = "strings whose every token after the prompt is the most probable one when all before it are given: equals `right`"
    figures.measured("teacher_forced", sum(whole), "strings", meaning)
    shown = [subject.codec.decode(ids).decode("utf-8", "replace") for group in (prompts, made, rests) for ids in group]
    size = len(rests)
    cells = [(shown[n], shown[size + n], shown[2 * size + n], "yes" if right[n] else "no") for n in range(size)]
    figures.tables.append(Table("strings", "each training string", ("prompt", "completion", "wanted", "right"), cells))


def attainable(prompts: Sequence[Sequence[int]], rests: Sequence[Sequence[int]]) -> int:
    """How many strings one fixed completion for each different prompt gets right at most."""
    best: dict[tuple[int, ...], int] = {}
    for (prompt, _), times in Counter((tuple(p), tuple(r)) for p, r in zip(prompts, rests, strict=True)).items():
        best[prompt] = max(best.get(prompt, 0), times)
    return sum(best.values())


def _told(figures: Recorder, subject: Subject, strings: Strings, losses: Losses) -> None:
    """Accuracy and loss of single tokens after the prompt, each told all that stands before it."""
    best = by_prefix(zip(strings.rows, strings.given, strict=True))
    asked = losses.place + 1 >= torch.tensor(strings.given).numpy()[losses.document]
    figures.measured(
        "accuracy", float(losses.right[asked].mean()), "share", "tokens after the prompt that were the most probable ones"
    )
    figures.counted(
        "accuracy.ceiling", best.accuracy, "share", "accuracy that a causal predictor can reach, by enumerating prefixes"
    )
    figures.counted("accuracy.chance", 1 / subject.tokens.vocabulary, "share", "accuracy of drawing a token at random")
    figures.measured("nats", float(losses.nats[asked].mean()), "nats/token", "mean loss of the tokens after the prompt")
    figures.counted(
        "floor", best.nats, "nats/token", "least mean loss that a causal predictor can have on them, by enumerating prefixes"
    )


FACE = Validating(Settings, probes)
