"""Other nets of the same recipe in; out, how chosen figures spread over seeds, and what became of them from checkpoint to checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from provenlm.core.audit import Recorder, Series, Table
from provenlm.core.errors import UserError
from provenlm.evaluation.probe import Probe, Subject


@dataclass(frozen=True)
class Settings:
    """Figures of probes that are measured again: on nets trained with each of `seeds`, and on every checkpoint that was kept."""

    seeds: tuple[int, ...]  # beside the recipe's own
    loss: str  # such as `recall.from_2.nats`
    quality: tuple[str, ...]  # figures to draw against that loss

    def __post_init__(self) -> None:
        if not self.quality or self.loss in self.quality or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("quality needs at least one figure, the loss not among them, and seeds no number twice")


@dataclass(frozen=True)
class Others:
    """`own`: the recipe's seed and the seconds of its steps. `again(seed)` trains with another and gives both the net and its seconds.

    `kept`: step and how to read the net, of every checkpoint that lies beside the finished net.
    """

    own: tuple[int, float]
    again: Callable[[int], tuple[Subject, float]]
    kept: Sequence[tuple[int, Callable[[], Subject]]]
    steps: int  # of the finished net


def probes(settings: Settings, known: Mapping[str, Probe], others: Others) -> dict[str, Probe]:
    """`seeds` and `checkpoints`, each where there is something to ask. UserError if none of the `known` probes measures a figure."""
    names = (settings.loss, *settings.quality)
    needed = {name: known[name] for name in known if any(figure.startswith(f"{name}.") for figure in names)}
    for figure in names:
        if not any(figure.startswith(f"{name}.") for name in needed):
            raise UserError(f"validate.follow: no probe measures {figure!r}; the probes are {', '.join(known)}")

    def seeds(subject: Subject, figures: Recorder) -> None:
        rows = [(*others.own, *_values(subject, needed, names))]
        for seed in settings.seeds:
            net, seconds = others.again(seed)
            rows.append((seed, seconds, *_values(net, needed, names)))
        _spread(figures, names, rows)

    def checkpoints(subject: Subject, figures: Recorder) -> None:
        rows = [(step, *_values(read(), needed, names)) for step, read in others.kept]
        _course(figures, names, [*rows, (others.steps, *_values(subject, needed, names))])

    return {**({"seeds": seeds} if settings.seeds else {}), **({"checkpoints": checkpoints} if others.kept else {})}


def _values(subject: Subject, needed: Mapping[str, Probe], names: Sequence[str]) -> list[float]:
    subject.model.eval()
    recorder = Recorder()
    for name, probe in needed.items():
        with recorder.under(name) as inner:
            probe(subject, inner)
    if missing := [name for name in names if name not in recorder.figures]:
        raise ValueError(f"no probe recorded {', '.join(missing)}")
    return [float(recorder.figures[name].value) for name in names]


def _spread(figures: Recorder, names: Sequence[str], rows: Sequence[tuple[float, ...]]) -> None:
    """Seed, seconds and values of each net in `rows`."""
    figures.counted("nets", len(rows), "nets", "trained alike but for their seed: weights and the order of the data")
    for column, name in enumerate(("training_seconds", *names), start=1):
        unit, what = ("s", "wall time of all steps of a training") if column == 1 else ("", f"{name}")
        values = [row[column] for row in rows]
        figures.measured(f"{name}.least", min(values), unit, f"{what}: the least over seeds")
        figures.measured(f"{name}.most", max(values), unit, f"{what}: the most over seeds")
    cells = [tuple(round(value, 5) for value in row) for row in rows]
    figures.tables.append(Table("spread", "each seed, the recipe's own first", ("seed", "training seconds", *names), cells))


def _course(figures: Recorder, names: Sequence[str], rows: Sequence[tuple[float, ...]]) -> None:
    """Step and values of each checkpoint in `rows`, the finished net last."""
    figures.counted("kept", len(rows) - 1, "checkpoints", "that lie beside the finished net and were measured as it is")
    loss, *quality = ([row[column] for row in rows] for column in range(1, len(names) + 1))
    lines = dict(zip(names[1:], quality, strict=True))
    meaning = f"quality against {names[0]}, at each kept checkpoint and at the end: training goes from the right to the left"
    figures.series.append(Series("quality_by_loss", "lines", meaning, names[0], "quality", loss, lines))
    by_step = Series("quality_by_step", "lines", "the same by step", "step", "quality", [row[0] for row in rows], lines)
    figures.series.append(by_step)
    cells = [tuple(round(value, 5) for value in row) for row in rows]
    figures.tables.append(Table("course", "each kept checkpoint, and the finished net", ("step", *names), cells))
