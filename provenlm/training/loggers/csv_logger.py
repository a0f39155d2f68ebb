"""Rows in, a CSV file that DVC plots out, a line a step, written while training runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from provenlm.core import io


class CsvLogger:
    """The loss (`judge`), the held-out loss last measured, the throughput, and what the optimizer did, in `path`."""

    def __init__(self, path: Path, eval_term: str) -> None:
        column_sources = {"tokens_per_second": "tokens_per_second", "mfu": "mfu", "grad_norm": "grad_norm", "rate_share": "share"}
        self.path, self.columns = path, {"loss": eval_term, "held_out": f"held_out.{eval_term}", **column_sources}
        self._file: TextIO | None = None
        self._last: dict[str, float] = {}

    def start(self) -> None:
        """A file with names of columns and nothing else."""
        self.close()
        io.write_text(self.path, ",".join(["step", *self.columns]) + "\n")
        self._file, self._last = self.path.open("a", encoding="utf-8", buffering=1), {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """One line. What was not measured at this step stays at its last value: a line with gaps cannot be drawn.

        What was never measured stays empty: a column that is not there would be missed by DVC.
        """
        assert self._file is not None, "begin comes first"
        self._last = last = self._last | {column: values[name] for column, name in self.columns.items() if name in values}
        self._file.write(",".join([str(step), *(repr(last[column]) if column in last else "" for column in self.columns)]) + "\n")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None
