"""Write a Parquet file row by row with bounded memory."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 4096
CHARS_PER_GROUP = 1 << 25  # of text


class ParquetAppender:
    """Append rows to a Parquet file within a `with` block.

    Memory holds at most ROWS_PER_GROUP rows, and CHARS_PER_GROUP characters and one row.
    """

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._pending_rows: list[dict[str, object]] = []
        self._pending_chars = 0
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)

    def append(self, **row: object) -> None:
        """Append one row, a value for each column of the schema."""
        self._pending_rows.append(row)
        self._pending_chars += sum(len(value) for value in row.values() if isinstance(value, str))
        if len(self._pending_rows) >= ROWS_PER_GROUP or self._pending_chars >= CHARS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._pending_rows, self._schema))
        self._pending_rows, self._pending_chars = [], 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        self._writer.close()
