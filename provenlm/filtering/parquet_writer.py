"""Rows of a table in, a Parquet file out, a few thousand rows of it in memory."""

from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq

ROWS_PER_GROUP = 4096


class ParquetAppender:
    """A Parquet file that is written row by row within a `with` block."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._pending_rows: list[dict[str, object]] = []
        self._writer = pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True)

    def append(self, **row: object) -> None:
        self._pending_rows.append(row)
        if len(self._pending_rows) >= ROWS_PER_GROUP:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_table(pa.Table.from_pylist(self._pending_rows, self._schema))
        self._pending_rows = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._flush()
        self._writer.close()
