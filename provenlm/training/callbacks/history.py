"""Steps in, a table with a row a step out."""

import io
from collections.abc import Iterable, Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.training.step import Step

Row = dict[str, float | int | str | None]
FIELDS = (
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


class History:
    """Every step so far, also those before a resume (`rows` of the earlier run) and those that were given up by going back."""

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = list(rows or [])

    def following(self, steps: Iterable[Step]) -> Iterator[Step]:
        """The same steps, each with its row written before whoever asked sees it."""
        for step in steps:
            held_out = {f"held_out.{name}": value for name, value in (step.held_out or {}).items()}
            norms = {f"grad_norm.{role}": norm for role, norm in step.grad_norms.items()}
            inside = {name: value for name, (value, _, _) in step.inside.items()}
            row = {
                "step": step.number,
                **step.terms,
                **held_out,
                **norms,
                **inside,
                **{name: getattr(step, name) for name in FIELDS},
            }
            self.rows.append({name: value for name, value in row.items() if value is not None})
            yield step

    def lasting(self) -> list[Row]:
        """The rows that led to the weights as they are: without those that a return to an earlier step undid."""
        kept: list[Row] = []
        for row in self.rows:
            while kept and int(kept[-1]["step"] or 0) >= int(row["step"] or 0):
                kept.pop()
            kept.append(row)
        return kept

    def column(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of every lasting row that has `name`."""
        return [(int(row["step"] or 0), float(value)) for row in self.lasting() if (value := row.get(name)) is not None]

    def to_parquet(self) -> bytes:
        """One column a figure; null where a step has none."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: [row.get(name) for row in self.rows] for name in names}), buffer)
        return buffer.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> "History":
        return cls([{k: v for k, v in row.items() if v is not None} for row in pq.read_table(io.BytesIO(data)).to_pylist()])
