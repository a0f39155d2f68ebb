"""What a net that learned strings is asked: to complete those of training, those held out, and fixed prompts, beside what is attainable."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from provenlm.core.audit import Recorder, Table
from provenlm.core.errors import UserError
from provenlm.data.token_dataset import Split
from provenlm.evaluation.ceilings import by_prefix
from provenlm.evaluation.confidence import ratio, record_accuracy
from provenlm.evaluation.generate import generate
from provenlm.evaluation.probe import Probe, Subject, Validating
from provenlm.evaluation.token_loss import Losses, of_rows
from provenlm.models.generation.sampling import GREEDY


@dataclass(frozen=True)
class Settings:
    """The `probes` section of a recipe on strings, typed."""

    prompt_characters: tuple[int, ...]  # of each training string; each is measured for itself
    demos: tuple[str, ...]  # beginnings of training strings, each to be completed to one of them
    batch_tokens: int

    def __post_init__(self) -> None:
        if not self.prompt_characters or min(self.prompt_characters) < 1 or self.batch_tokens < 1:
            raise ValueError("prompt_characters must name at least one length, none below 1, and batch_tokens be at least 1")


@dataclass(frozen=True)
class Strings:
    """Strings as ids, and for each how many of its first ids are the prompt."""

    rows: Sequence[Sequence[int]]
    given: Sequence[int]

    def prompts(self) -> list[list[int]]:
        return [list(row[:n]) for row, n in zip(self.rows, self.given, strict=True)]

    def rests(self) -> list[list[int]]:
        return [list(row[n:]) for row, n in zip(self.rows, self.given, strict=True)]


def probes(settings: Settings) -> Mapping[str, Probe]:
    """`recall` of what was trained on; `completion` of what was not; `demos`."""

    def recall(subject: Subject, figures: Recorder) -> None:
        rows = _rows(subject.tokens.train)
        figures.counted("strings", len(rows), "strings", "training strings, each to be completed from its first characters")
        losses = of_rows(subject, rows, settings.batch_tokens, "recall")
        for characters in settings.prompt_characters:
            strings = Strings(rows, [_given(subject, row, characters) for row in rows])
            with figures.under(f"from_{characters}") as inner:
                _completed(inner, subject, strings, losses)
                _told(inner, subject, strings, losses)

    def completion(subject: Subject, figures: Recorder) -> None:
        rows = _rows(subject.tokens.val)
        figures.counted("strings", len(rows), "strings", "held-out strings, none of which was trained on")
        if not rows:
            return  # nothing was held out: no figure claims to be about it
        losses = of_rows(subject, rows, settings.batch_tokens, "completion")
        strings = Strings(rows, [(len(row) + 1) // 2 for row in rows])
        with figures.under("from_half") as inner:
            _completed(inner, subject, strings, losses)
            _told(inner, subject, strings, losses)
        _lines(figures, subject, rows, losses)

    def demos(subject: Subject, figures: Recorder) -> None:
        _demonstrated(figures, subject, settings.demos)

    return {"recall": recall, "completion": completion, **({"demos": demos} if settings.demos else {})}


def _rows(split: Split) -> list[list[int]]:
    return [split.ids[a:b].tolist() for a, b in zip(split.starts[:-1], split.starts[1:], strict=True)]


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
    figures.measured("right", sum(right), "strings", "strings completed to the last token by greedy generation")
    meaning = "strings that can be completed at most: equal prompts have one completion"
    figures.counted("right.ceiling", ceiling, "strings", meaning)
    figures.counted("right.chance", chance, "strings", "expected number completed by drawing every token at random")
    figures.measured("missed", ceiling - sum(right), "strings", "ceiling minus strings completed: nought is all that can be had")
    places = losses.place + 1  # of each target within its string
    whole = [bool(losses.right[(losses.document == n) & (places >= given)].all()) for n, given in enumerate(strings.given)]
    meaning = "strings whose every token after the prompt is the most probable one when all before it are given: equals `right`"
    figures.measured("teacher_forced", sum(whole), "strings", meaning)
    shown = [_shown(subject, ids) for group in (prompts, made, rests) for ids in group]
    size = len(rests)
    cells = [(shown[n], shown[size + n], shown[2 * size + n], "yes" if right[n] else "no") for n in range(size)]
    figures.tables.append(Table("strings", "each string", ("prompt", "completion", "wanted", "right"), cells))


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
    right, count = (losses.by_document(w, len(strings.rows)) for w in (losses.right & asked, asked))
    record_accuracy(figures, right, count, best.accuracy, subject.tokens.vocabulary)
    figures.measured("nats", float(losses.nats[asked].mean()), "nats/token", "mean loss of the tokens after the prompt")
    figures.counted(
        "floor", best.nats, "nats/token", "least mean loss that a causal predictor can have on them, by enumerating prefixes"
    )


def _lines(figures: Recorder, subject: Subject, rows: Sequence[Sequence[int]], losses: Losses) -> None:
    """From every place of every held-out string: is the rest of the line there, to its end, what the net would write?"""
    breaks = _ends_of_lines(subject)
    cases = [(n, place, _end_of_line(row, place, breaks)) for n, row in enumerate(rows) for place in range(1, len(row))]
    right = {(n, p): ok for n, p, ok in zip(losses.document, losses.place + 1, losses.right, strict=True)}
    whole = np.array([all(right[n, p] for p in range(place, end)) for n, place, end in cases], np.float64)
    document = np.array([n for n, _, _ in cases])
    share = ratio(np.bincount(document, weights=whole).astype(np.float64), np.bincount(document).astype(np.float64))
    meaning = "places in held-out strings from which greedy writing gives the rest of the line, to the token that ends it"
    figures.counted("lines.cases", len(cases), "places", f"cases of: {meaning}")
    figures.measured("lines.right", share.value, "share", meaning)
    if len(rows) > 1:
        figures.measured("lines.right.low", share.low, "share", "lower end of its 95 % interval, strings as the independent draws")
        figures.measured(
            "lines.right.high", share.high, "share", "upper end of its 95 % interval, strings as the independent draws"
        )
    best = attainable([rows[n][:place] for n, place, _ in cases], [rows[n][place:end] for n, place, end in cases])
    figures.counted(
        "lines.right.ceiling", best / len(cases), "share", "most that is possible: equal beginnings have one completion"
    )
    chance = float(np.mean([float(subject.tokens.vocabulary) ** (place - end) for _, place, end in cases]))
    figures.counted("lines.right.chance", chance, "share", "expected share if every token is drawn at random")


def _ends_of_lines(subject: Subject) -> set[int]:
    """Ids that end a line: of a line break, if there is one in the corpus, and of the end of a string."""
    ends = {i for i in range(subject.tokens.vocabulary) if subject.codec.decode([i]) == b"\n"}
    return ends | ({subject.tokens.special["eos"]} if "eos" in subject.tokens.special else set())


def _end_of_line(row: Sequence[int], place: int, breaks: set[int]) -> int:
    """One past the token that ends the line which `place` is in."""
    return next((n + 1 for n in range(place, len(row)) if row[n] in breaks), len(row))


def _demonstrated(figures: Recorder, subject: Subject, texts: Sequence[str]) -> None:
    """Right is a completion that makes the prompt one of the training strings, to its end; any of them where there are several."""
    prompts = [subject.codec.prompt(text) for text in texts]
    rows = _rows(subject.tokens.train)
    wanted = [[row[len(prompt) :] for row in rows if row[: len(prompt)] == prompt and len(row) > len(prompt)] for prompt in prompts]
    if nothing := [text for text, rests in zip(texts, wanted, strict=True) if not rests]:
        raise UserError(f"probes.demos: no training string begins with {nothing[0]!r} and goes on")
    made = generate(subject, prompts, GREEDY, max(len(rest) for rests in wanted for rest in rests), torch.Generator())
    right = [any(one[: len(rest)] == rest for rest in rests) for one, rests in zip(made, wanted, strict=True)]
    meaning = "fixed prompts that were completed, to the last token, to a string of the training split"
    figures.measured("right", sum(right), "prompts", meaning)
    figures.counted("right.ceiling", len(prompts), "prompts", "all of them: each is the beginning of a training string")
    chance = sum(float(subject.tokens.vocabulary) ** -len(rest) for rests in wanted for rest in rests)
    figures.counted("right.chance", chance, "prompts", "expected number completed by drawing every token at random")
    cells = [
        (text, _shown(subject, one), " or ".join(_shown(subject, rest) for rest in rests), "yes" if ok else "no")
        for text, one, rests, ok in zip(texts, made, wanted, right, strict=True)
    ]
    figures.tables.append(Table("prompts", "each fixed prompt", ("prompt", "completion", "wanted", "right"), cells))


def _shown(subject: Subject, ids: Sequence[int]) -> str:
    return subject.codec.decode(ids).decode("utf-8", "replace")


SPEC = Validating(Settings, probes)
