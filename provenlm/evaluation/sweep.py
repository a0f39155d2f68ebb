"""Measure chosen metrics again on other seeds and on saved checkpoints."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from provenlm.core.audit import AuditTable, MetricRecorder, PlotSeries
from provenlm.core.errors import ConfigError
from provenlm.evaluation.probe import EvalContext, Probe


@dataclass(frozen=True)
class SweepConfig:
    """Name the metrics to measure again, and the seeds of the further trainings."""

    seeds: tuple[int, ...] = ()  # in addition to the recipe's own seed
    x_metric: str = "val.loss"  # a loss
    y_metrics: tuple[str, ...] = ("val.accuracy",)  # plotted against `x_metric`

    def __post_init__(self) -> None:
        if not self.y_metrics or self.x_metric in self.y_metrics:
            raise ValueError(f"y_metrics must name at least one metric and not x_metric, got {list(self.y_metrics)}")
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"seeds must not repeat a number, got {list(self.seeds)}")


@dataclass(frozen=True)
class ModelVariants:
    """Provide further models of the same recipe.

    `baseline`: the recipe's seed and the seconds of its steps. `train_with_seed(seed)` trains a model and returns it with the
    seconds of its steps. `checkpoints`: for each saved checkpoint its step and a function that loads it.
    """

    baseline: tuple[int, float]
    train_with_seed: Callable[[int], tuple[EvalContext, float]]
    checkpoints: Sequence[tuple[int, Callable[[], EvalContext]]]
    num_steps: int  # of the finished model


def sweep_probes(
    config: SweepConfig | None, probes: Mapping[str, Probe], variants: ModelVariants, available: Mapping[str, str | None]
) -> dict[str, Probe]:
    """Return the probes `seed_sweep` and `checkpoint_sweep`.

    They apply if the recipe configures them. ConfigError if none of `probes` records a configured metric, or if that probe does
    not apply (`available`, as in the runner).
    """
    if config is None:
        return {
            "seed_sweep": Probe(_raise_unconfigured, frozenset({"sweep_seeds"})),
            "checkpoint_sweep": Probe(_raise_unconfigured, frozenset({"sweep_checkpoints"})),
        }
    names = (config.x_metric, *config.y_metrics)
    needed = {name: probes[name] for name in probes if any(metric.startswith(f"{name}.") for metric in names)}
    for metric in names:
        if not any(metric.startswith(f"{name}.") for name in needed):
            raise ConfigError(f"validate.sweeps: no probe records {metric!r}; the probes are {', '.join(probes)}")
    for name, probe in needed.items():
        for need in sorted(probe.needs):
            if reason := available[need]:
                raise ConfigError(f"validate.sweeps: probe {name} does not apply: {reason}")

    def seed_sweep(context: EvalContext, metrics: MetricRecorder) -> None:
        rows = [(*variants.baseline, *_measure(context, needed, names))]
        for seed in config.seeds:
            variant, seconds = variants.train_with_seed(seed)
            rows.append((seed, seconds, *_measure(variant, needed, names)))
        _record_seed_sweep(metrics, names, rows)

    def checkpoint_sweep(context: EvalContext, metrics: MetricRecorder) -> None:
        rows = [(step, *_measure(load(), needed, names)) for step, load in variants.checkpoints]
        _record_checkpoint_sweep(metrics, names, [*rows, (variants.num_steps, *_measure(context, needed, names))])

    return {
        "seed_sweep": Probe(seed_sweep, frozenset({"sweep_seeds", "random_init"})),
        "checkpoint_sweep": Probe(checkpoint_sweep, frozenset({"sweep_checkpoints"})),
    }


def _raise_unconfigured(context: EvalContext, metrics: MetricRecorder) -> None:
    raise ValueError("validate.sweeps is null")


def _measure(context: EvalContext, needed: Mapping[str, Probe], names: Sequence[str]) -> list[float]:
    """Run the `needed` probes and return the values of the metrics `names`."""
    context.model.eval()
    recorder = MetricRecorder()
    for name, probe in needed.items():
        with recorder.scope(name) as inner:
            probe.run(context, inner)
    if missing := [name for name in names if name not in recorder.metrics]:
        raise ValueError(f"no probe recorded {', '.join(missing)}")
    return [float(recorder.metrics[name].value) for name in names]


def _record_seed_sweep(metrics: MetricRecorder, names: Sequence[str], rows: Sequence[tuple[float, ...]]) -> None:
    """Record the range of each metric over seeds.

    `rows` hold seed, seconds and values of each model.
    """
    metrics.add_count("num_models", len(rows), "models", "Models trained with different seeds for weights and data order")
    for column, name in enumerate(("training_seconds", *names), start=1):
        unit, label = ("s", "wall time of all steps of a training") if column == 1 else ("", name)
        values = [row[column] for row in rows]
        metrics.add_measurement(f"{name}.min", min(values), unit, f"Minimum over seeds of: {label}")
        metrics.add_measurement(f"{name}.max", max(values), unit, f"Maximum over seeds of: {label}")
    cells = [tuple(round(value, 5) for value in row) for row in rows]
    metrics.tables.append(AuditTable("seeds", "Each seed, the recipe's own first", ("seed", "training seconds", *names), cells))


def _record_checkpoint_sweep(metrics: MetricRecorder, names: Sequence[str], rows: Sequence[tuple[float, ...]]) -> None:
    """Plot the metrics over training.

    `rows` hold step and values of each checkpoint, the finished model last.
    """
    metrics.add_count(
        "num_checkpoints", len(rows) - 1, "checkpoints", "Saved checkpoints that were evaluated like the finished model"
    )
    x_values, *y_values = ([row[column] for row in rows] for column in range(1, len(names) + 1))
    lines = dict(zip(names[1:], y_values, strict=True))
    description = f"Metrics against {names[0]}, at each saved checkpoint and at the end of training"
    metrics.series.append(PlotSeries("by_x_metric", "line", description, names[0], "metric", x_values, lines))
    description = "Metrics by step, at each saved checkpoint and at the end of training"
    metrics.series.append(PlotSeries("by_step", "line", description, "step", "metric", [row[0] for row in rows], lines))
    cells = [tuple(round(value, 5) for value in row) for row in rows]
    metrics.tables.append(AuditTable("checkpoints", "Each saved checkpoint and the finished model", ("step", *names), cells))
