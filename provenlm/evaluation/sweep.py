"""Other nets of the same recipe in; out, how chosen figures spread over seeds, and what became of them from checkpoint to checkpoint."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.core.errors import ProvenlmError
from provenlm.evaluation.probe import EvalContext, Probe


@dataclass(frozen=True)
class SweepConfig:
    """Figures of probes that are measured again: on nets trained with each of `seeds`, and on every checkpoint that was kept."""

    seeds: tuple[int, ...]  # beside the recipe's own
    x_metric: str  # such as `recall.from_2.nats`
    y_metrics: tuple[str, ...]  # figures to draw against that loss

    def __post_init__(self) -> None:
        if not self.y_metrics or self.x_metric in self.y_metrics or len(set(self.seeds)) < len(self.seeds):
            raise ValueError("quality needs at least one figure, the loss not among them, and seeds no number twice")


@dataclass(frozen=True)
class ModelVariants:
    """`own`: the recipe's seed and the seconds of its steps. `again(seed)` trains with another and gives both the net and its seconds.

    `kept`: step and how to read the net, of every checkpoint that lies beside the finished net.
    """

    baseline: tuple[int, float]
    train_with_seed: Callable[[int], tuple[EvalContext, float]]
    checkpoints: Sequence[tuple[int, Callable[[], EvalContext]]]
    num_steps: int  # of the finished net


def sweep_probes(config: SweepConfig, available: Mapping[str, Probe], variants: ModelVariants) -> dict[str, Probe]:
    """`seeds` and `checkpoints`, each where there is something to ask. ProvenlmError if none of the `known` probes measures a figure."""
    names = (config.x_metric, *config.y_metrics)
    needed = {name: available[name] for name in available if any(metric.startswith(f"{name}.") for metric in names)}
    for metric in names:
        if not any(metric.startswith(f"{name}.") for name in needed):
            raise ProvenlmError(f"validate.follow: no probe measures {metric!r}; the probes are {', '.join(available)}")

    def seed_sweep(context: EvalContext, metrics: MetricRecorder) -> None:
        rows = [(*variants.baseline, *_values(context, needed, names))]
        for seed in config.seeds:
            variant, seconds = variants.train_with_seed(seed)
            rows.append((seed, seconds, *_values(variant, needed, names)))
        _record_seed_sweep(metrics, names, rows)

    def checkpoint_sweep(context: EvalContext, metrics: MetricRecorder) -> None:
        rows = [(step, *_values(load(), needed, names)) for step, load in variants.checkpoints]
        _record_checkpoint_sweep(metrics, names, [*rows, (variants.num_steps, *_values(context, needed, names))])

    return {
        **({"seeds": seed_sweep} if config.seeds else {}),
        **({"checkpoints": checkpoint_sweep} if variants.checkpoints else {}),
    }


def _values(context: EvalContext, needed: Mapping[str, Probe], names: Sequence[str]) -> list[float]:
    context.model.eval()
    recorder = MetricRecorder()
    for name, probe in needed.items():
        with recorder.scope(name) as inner:
            probe(context, inner)
    if missing := [name for name in names if name not in recorder.metrics]:
        raise ValueError(f"no probe recorded {', '.join(missing)}")
    return [float(recorder.metrics[name].value) for name in names]


def _record_seed_sweep(metrics: MetricRecorder, names: Sequence[str], rows: Sequence[tuple[float, ...]]) -> None:
    """Seed, seconds and values of each net in `rows`."""
    metrics.add_count("nets", len(rows), "nets", "trained alike but for their seed: weights and the order of the data")
    for column, name in enumerate(("training_seconds", *names), start=1):
        unit, label = ("s", "wall time of all steps of a training") if column == 1 else ("", f"{name}")
        values = [row[column] for row in rows]
        metrics.add_measurement(f"{name}.least", min(values), unit, f"{label}: the least over seeds")
        metrics.add_measurement(f"{name}.most", max(values), unit, f"{label}: the most over seeds")
    cells = [tuple(round(value, 5) for value in row) for row in rows]
    metrics.tables.append(AuditTable("spread", "each seed, the recipe's own first", ("seed", "training seconds", *names), cells))


def _record_checkpoint_sweep(metrics: MetricRecorder, names: Sequence[str], rows: Sequence[tuple[float, ...]]) -> None:
    """Step and values of each checkpoint in `rows`, the finished net last."""
    metrics.add_count("kept", len(rows) - 1, "checkpoints", "that lie beside the finished net and were measured as it is")
    x_values, *y_values = ([row[column] for row in rows] for column in range(1, len(names) + 1))
    lines = dict(zip(names[1:], y_values, strict=True))
    description = f"quality against {names[0]}, at each kept checkpoint and at the end: training goes from the right to the left"
    metrics.series.append(PlotSeries("quality_by_loss", "lines", description, names[0], "quality", x_values, lines))
    by_step = PlotSeries("quality_by_step", "lines", "the same by step", "step", "quality", [row[0] for row in rows], lines)
    metrics.series.append(by_step)
    cells = [tuple(round(value, 5) for value in row) for row in rows]
    metrics.tables.append(AuditTable("course", "each kept checkpoint, and the finished net", ("step", *names), cells))
