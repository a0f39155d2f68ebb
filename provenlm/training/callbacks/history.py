"""Record every step as a row of a table."""

import io
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.training.step import StepResult

HistoryRow = dict[str, float | int | str | None]
STEP_FIELDS = (
    "lr_scale",
    "grad_norm",
    "micro_batch_size",
    "num_targets",
    "num_sequences",
    "seq_len",
    "num_positions",
    "epochs",
    "seconds",
    "data_seconds",
    "loss_scale",
    "overflow_reason",
    "skip_reason",
    "lr_drop_reason",
    "rollback_reason",
)


class StepHistory:
    """Hold one row per step.

    Rows of earlier processes of a resumed run and rows that a rollback undid are included.
    """

    def __init__(self, rows: list[HistoryRow] | None = None) -> None:
        self.rows: list[HistoryRow] = list(rows or [])

    def record_steps(self, steps: Iterable[StepResult]) -> Iterator[StepResult]:
        """Yield the same steps, each after its row is recorded."""
        for step in steps:
            val_losses = {f"val.{name}": value for name, value in (step.val_losses or {}).items()}
            grad_norms = {f"grad_norm.{group}": norm for group, norm in step.grad_norms.items()}
            model_metrics = {name: value for name, (value, _, _) in step.model_metrics.items()}
            row = {
                "step": step.number,
                **step.terms,
                **val_losses,
                **grad_norms,
                **model_metrics,
                **{name: getattr(step, name) for name in STEP_FIELDS},
            }
            self.rows.append({name: value for name, value in row.items() if value is not None})
            yield step

    def effective_rows(self) -> list[HistoryRow]:
        """Return the rows that led to the current weights, without undone ones."""
        effective: list[HistoryRow] = []
        for row in self.rows:
            while effective and int(effective[-1]["step"] or 0) >= int(row["step"] or 0):
                effective.pop()
            effective.append(row)
        return effective

    def series(self, name: str) -> list[tuple[int, float]]:
        """Return (step, value) of every effective row that has `name`."""
        return [(int(row["step"] or 0), float(value)) for row in self.effective_rows() if (value := row.get(name)) is not None]

    def to_parquet(self) -> bytes:
        """Serialize to Parquet, one column per metric; null where a step has no value."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: [row.get(name) for row in self.rows] for name in names}), buffer)
        return buffer.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> "StepHistory":
        """Parse what `to_parquet` returned."""
        return cls([{k: v for k, v in row.items() if v is not None} for row in pq.read_table(io.BytesIO(data)).to_pylist()])
