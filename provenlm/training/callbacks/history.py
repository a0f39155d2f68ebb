"""Steps in, a table with a row a step out."""

import io
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.training.step import StepResult

HistoryRow = dict[str, float | int | str | None]
STEP_FIELDS = (
    "share",
    "grad_norm",
    "micro_batch",
    "targets",
    "rows",
    "length",
    "positions",
    "epochs",
    "seconds",
    "data_seconds",
    "scale",
    "overflow",
    "skipped",
    "slowed",
    "back",
)


class StepHistory:
    """Every step so far, also those before a resume (`rows` of the earlier run) and those that were given up by going back."""

    def __init__(self, rows: list[HistoryRow] | None = None) -> None:
        self.rows: list[HistoryRow] = list(rows or [])

    def record_steps(self, steps: Iterable[StepResult]) -> Iterator[StepResult]:
        """The same steps, each with its row written before whoever asked sees it."""
        for step in steps:
            val_losses = {f"held_out.{name}": value for name, value in (step.val_losses or {}).items()}
            grad_norms = {f"grad_norm.{role}": norm for role, norm in step.grad_norms.items()}
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
        """The rows that led to the weights as they are: without those that a return to an earlier step undid."""
        effective: list[HistoryRow] = []
        for row in self.rows:
            while effective and int(effective[-1]["step"] or 0) >= int(row["step"] or 0):
                effective.pop()
            effective.append(row)
        return effective

    def series(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of every lasting row that has `name`."""
        return [(int(row["step"] or 0), float(value)) for row in self.effective_rows() if (value := row.get(name)) is not None]

    def to_parquet(self) -> bytes:
        """One column a figure; null where a step has none."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: [row.get(name) for row in self.rows] for name in names}), buffer)
        return buffer.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> "StepHistory":
        return cls([{k: v for k, v in row.items() if v is not None} for row in pq.read_table(io.BytesIO(data)).to_pylist()])
