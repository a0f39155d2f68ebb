"""Steps in, a table with a row a step out."""

import io

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.training.step import Step

Row = dict[str, float | int | bool | None]


class History:
    """Every step so far, also those before a resume (`rows` of the earlier run)."""

    def __init__(self, rows: list[Row] | None = None) -> None:
        self.rows: list[Row] = list(rows or [])

    def observe(self, step: Step) -> None:
        """Never asks to stop."""
        held_out = {f"held_out.{name}": value for name, value in (step.held_out or {}).items()}
        row: Row = {"step": step.number, **step.terms, **held_out}
        for name in ("share", "grad_norm", "targets", "positions", "epochs", "seconds", "data_seconds", "applied"):
            row[name] = getattr(step, name)
        self.rows.append(row)

    def column(self, name: str) -> list[tuple[int, float]]:
        """(step, value) of every row that has `name`."""
        return [(int(row["step"] or 0), float(value)) for row in self.rows if (value := row.get(name)) is not None]

    def to_parquet(self) -> bytes:
        """One column a figure; null where a step has none."""
        names = list(dict.fromkeys(name for row in self.rows for name in row))
        buffer = io.BytesIO()
        pq.write_table(pa.table({name: [row.get(name) for row in self.rows] for name in names}), buffer)
        return buffer.getvalue()

    @classmethod
    def from_parquet(cls, data: bytes) -> "History":
        return cls([{k: v for k, v in row.items() if v is not None} for row in pq.read_table(io.BytesIO(data)).to_pylist()])
