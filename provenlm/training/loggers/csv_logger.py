"""Write a CSV for DVC plots, one line per step, while training runs."""

from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from provenlm.core import io


class CsvLogger:
    """Write losses, throughput, gradient norm and learning-rate factor to `path`."""

    def __init__(self, path: Path, eval_term: str) -> None:
        names = ("tokens_per_second", "mfu", "grad_norm", "lr_scale")
        self.path = path
        self.columns = {"loss": eval_term, "val_loss": f"val.{eval_term}"} | {name: name for name in names}
        self._file: TextIO | None = None
        self._last: dict[str, float] = {}

    def start(self) -> None:
        """Write the header."""
        self.close()
        io.write_text(self.path, ",".join(["step", *self.columns]) + "\n")
        self._file, self._last = self.path.open("a", encoding="utf-8", buffering=1), {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write one line.

        A value that was not measured at this step repeats the last one, because DVC cannot plot gaps; before the first measurement it is empty.
        """
        assert self._file is not None, "call start first"
        self._last = last = self._last | {column: values[name] for column, name in self.columns.items() if name in values}
        self._file.write(",".join([str(step), *(repr(last[column]) if column in last else "" for column in self.columns)]) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None
