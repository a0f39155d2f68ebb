"""Export the records of a corpus as a folder that `datasets.load_dataset` reads.

The splits are those of the token arrays. Text is in the column `text`; what is not text, such as MIDI, is in the binary column
`content`. The dataset card cites copies of the corpus's audits.
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import hashing, io, records
from provenlm.core.audit import read_audit
from provenlm.core.config import load_params
from provenlm.core.errors import ConfigError, DataError
from provenlm.core.paths import ProjectPaths
from provenlm.core.progress import log_line, progress_bar
from provenlm.core.records import Record
from provenlm.core.stages import CORPUS_STAGES
from provenlm.reporting.cards import UNKNOWN_LICENSE, Card
from provenlm.reporting.checks import CheckStatus
from provenlm.reporting.dataset_card import SPLIT_NAMES, dataset_card
from provenlm.reporting.evidence import AuditFile

SHARD_BYTES = 500_000_000  # of content; the Hub's own size of a shard
ROW_GROUP_BYTES = 16_000_000  # of content; small enough for the Hub's viewer
DATA_DIR = "data"  # in the exported folder
FORMATS = ("parquet", "jsonl.zst")
BINARY_MEDIA_TYPES = ("audio/", "image/", "video/", "application/octet-stream")
COLUMNS = ("license", "language", "score")  # metadata with a column of its own; the others are JSON in `metadata`
LANGUAGE_CODE = re.compile(r"[a-z]{2,3}")  # ISO 639, all that the Hub accepts
HUB_LICENSES = {
    "apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "cc-by-2.0", "cc-by-3.0", "cc-by-4.0", "cc-by-sa-3.0", "cc-by-sa-4.0",
    "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc-by-nd-4.0", "cc-by-nc-nd-4.0", "pddl", "odc-by", "odbl", "gfdl", "gpl-2.0", "gpl-3.0",
    "agpl-3.0", "lgpl-3.0", "mpl-2.0", "isc", "unlicense",
}  # fmt: skip


@dataclass
class ExportTally:
    """Count what was exported, for the card and the last line."""

    rows: Counter[str] = field(default_factory=Counter)  # by split, as bytes and files
    bytes: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str | None] = field(default_factory=Counter)
    languages: Counter[str | None] = field(default_factory=Counter)
    replaced: int = 0  # records with bytes that are not UTF-8

    def add(self, split: str, record: Record, row: Mapping[str, Any]) -> None:
        """Count one exported record."""
        self.rows[split] += 1
        self.bytes[split] += len(record.content)
        self.licenses[row["license"]] += 1
        self.languages[row["language"]] += 1
        self.replaced += "text" in row and row["text"].encode() != record.content


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("corpus", help="name of an entry of `corpora` in params.yaml that has been tokenized")
    parser.add_argument("folder", type=Path, help="output folder; must not exist or must be empty")
    parser.add_argument("--format", choices=FORMATS, default=FORMATS[0], help="format of the files (default: %(default)s)")


def main(args: argparse.Namespace) -> int:
    """Write the folder atomically and return 0.

    Raises ConfigError if the folder holds anything.
    """
    if args.folder.exists() and (not args.folder.is_dir() or any(args.folder.iterdir())):
        raise ConfigError(f"{args.folder}: must not exist or must be an empty folder")
    paths = ProjectPaths(Path.cwd())
    load_params(paths.params_yaml).entry("corpora", args.corpus)
    tally = ExportTally()
    with io.atomic_dir(args.folder.absolute()) as folder:
        write_data(paths, args.corpus, folder / DATA_DIR, args.format, tally)
        audits = copy_audits(paths, args.corpus, folder / "audits")
        card = Card(args.corpus, "", "", CheckStatus.NOT_APPLICABLE, audits, [])
        io.write_text(folder / "README.md", dataset_card(card, hub_metadata(tally)))
    splits = ", ".join(f"{split} {tally.rows[split]} (files: {number})" for split, number in tally.files.items())
    replaced = f"; {tally.replaced} with bytes that are not UTF-8, replaced by U+FFFD" if tally.replaced else ""
    log_line(f"export-corpus {args.corpus}: wrote {tally.rows.total()} records to {args.folder}: {splits}{replaced}")
    return 0


def write_data(
    paths: ProjectPaths, corpus: str, folder: Path, file_format: str, tally: ExportTally, shard_bytes: int = SHARD_BYTES
) -> None:
    """Write the records of both splits to shards of about `shard_bytes` of content.

    Raises ConfigError if the corpus is not tokenized or the format cannot hold its content.
    """
    source, index = paths.corpus_dir(corpus, "deduped"), paths.corpus_dir(corpus, "tokens") / "index.parquet"
    for path in (source, index):
        if not path.exists():
            location = path.relative_to(paths.root).as_posix()
            raise ConfigError(f"{location}: does not exist; `dvc repro tokenize@{corpus}` creates it, `dvc pull` downloads it")
    first = next(records.read_records(source), None)
    is_binary = first is not None and first.media_type.startswith(BINARY_MEDIA_TYPES)
    if is_binary and file_format != "parquet":
        raise ConfigError(f"--format: must be parquet for content of type {first.media_type if first else ''}, got {file_format}")
    with ExitStack() as stack:
        bar = stack.enter_context(progress_bar(f"export-corpus {corpus}", "records", records.count_records(source)))
        writers = {side: stack.enter_context(ShardWriter(folder, split, file_format, shard_bytes)) for split, side in SPLIT_NAMES}
        for record, side in with_splits(source, index):
            row = to_row(record, is_binary)
            writers[side].add(row, len(record.content))
            tally.add(writers[side].split, record, row)
            bar.update()
    tally.files.update({writer.split: writer.num_files for writer in writers.values() if writer.num_files})


def with_splits(source: Path, index: Path) -> Iterator[tuple[Record, str]]:
    """Yield each record with its split, `train` or `val`.

    Raises DataError if the index lists other records.
    """
    try:
        with pq.ParquetFile(index) as file:
            rows = (
                pair
                for batch in file.iter_batches(columns=["id", "split"])
                for pair in zip(*(column.to_pylist() for column in batch.columns), strict=True)
            )
            for number, record in enumerate(records.read_records(source)):
                record_id, split = next(rows, (None, ""))
                if record_id != record.id:
                    raise DataError(f"{index.as_posix()}: row {number} must be {record.id}, got {record_id}; run tokenize again")
                yield record, split
            if next(rows, None) is not None:
                raise DataError(f"{index.as_posix()}: must list the records of {source.as_posix()}, got more; run tokenize again")
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{index.as_posix()}: not readable: {error}; run tokenize again") from None


def to_row(record: Record, is_binary: bool) -> dict[str, Any]:
    """Return the columns of a record; a missing license, language or score is None."""
    content = {"content": record.content} if is_binary else {"text": record.content.decode("utf-8", "replace")}
    license_name, language, score = (record.metadata.get(name) for name in COLUMNS)
    rest = {key: value for key, value in record.metadata.items() if key not in COLUMNS}
    return {
        **content,
        "id": record.id,
        "source": record.source,
        "license": None if license_name is None else str(license_name),
        "language": None if language is None else str(language),
        "score": float(score) if isinstance(score, int | float) else None,
        "media_type": record.media_type,
        "metadata": json.dumps(rest, sort_keys=True, ensure_ascii=False),
    }


class ShardWriter:
    """Write the rows of one split to numbered files.

    Their number is known at the end; then they are renamed to `SPLIT-00000-of-00002.FORMAT`. A split without rows has no file.
    """

    def __init__(self, folder: Path, split: str, file_format: str, shard_bytes: int) -> None:
        self.folder, self.split, self.file_format, self.shard_bytes = folder, split, file_format, shard_bytes
        self.num_files = 0
        self._rows: list[dict[str, Any]] = []
        self._row_bytes = self._shard_bytes = 0
        self._stack = ExitStack()  # holds the open file
        self._write_rows: Callable[[list[dict[str, Any]]], None] | None = None  # None: no file is open

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, error_type: type[BaseException] | None, *_: object) -> None:
        if error_type is None:
            self._flush()
        self._stack.close()
        if error_type is None:
            for number in range(self.num_files):
                name = f"{self.split}-{number:05}-of-{self.num_files:05}.{self.file_format}"
                self._path(number).rename(self.folder / name)

    def add(self, row: dict[str, Any], num_bytes: int) -> None:
        """Add a row; memory holds one row group."""
        self._rows.append(row)
        self._row_bytes += num_bytes
        if self._row_bytes >= min(ROW_GROUP_BYTES, self.shard_bytes):
            self._flush()

    def _path(self, number: int) -> Path:
        return self.folder / f"{self.split}-{number:05}.part"

    def _flush(self) -> None:
        if not self._rows:
            return
        if self._write_rows is None:
            self.folder.mkdir(parents=True, exist_ok=True)
            open_file = _open_parquet if self.file_format == "parquet" else _open_jsonl_zst
            self._write_rows = open_file(self._path(self.num_files), list(self._rows[0]), self._stack)
            self.num_files += 1
        self._write_rows(self._rows)
        self._shard_bytes += self._row_bytes
        self._rows, self._row_bytes = [], 0
        if self._shard_bytes >= self.shard_bytes:
            self._stack.close()
            self._write_rows, self._shard_bytes = None, 0


def _open_parquet(path: Path, columns: list[str], stack: ExitStack) -> Callable[[list[dict[str, Any]]], None]:
    types = {"content": pa.binary(), "score": pa.float64()}
    schema = pa.schema([(name, types.get(name, pa.string())) for name in columns])
    writer = stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd", write_page_checksum=True))
    return lambda rows: writer.write_table(pa.Table.from_pylist(rows, schema))


def _open_jsonl_zst(path: Path, columns: list[str], stack: ExitStack) -> Callable[[list[dict[str, Any]]], None]:
    stream = stack.enter_context(pa.CompressedOutputStream(stack.enter_context(pa.OSFile(str(path), "wb")), "zstd"))
    return lambda rows: stream.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def copy_audits(paths: ProjectPaths, corpus: str, folder: Path) -> dict[str, AuditFile]:
    """Copy the audits that the card cites and return them by stage."""
    audits = {}
    for stage in CORPUS_STAGES:
        path = paths.audit_json(corpus, stage)
        if path.exists():
            io.write_bytes(folder / path.name, path.read_bytes())
            audits[stage] = AuditFile(corpus, stage, f"{folder.name}/{path.name}", hashing.sha256_file(path), read_audit(path))
    return audits


def hub_metadata(tally: ExportTally) -> dict[str, Any]:
    """Return what the Hub reads in the card.

    That is the files of each split, the license, the languages and the sizes.
    """
    splits = [{"name": name, "num_bytes": tally.bytes[name], "num_examples": tally.rows[name]} for name in tally.files]
    return {
        "license": hub_license(tally.licenses),
        "language": [code for code, _ in tally.languages.most_common() if code and LANGUAGE_CODE.fullmatch(code)] or None,
        "configs": [
            {"config_name": "default", "data_files": [{"split": name, "path": f"{DATA_DIR}/{name}-*"} for name in tally.files]}
        ],
        "dataset_info": {"splits": splits, "dataset_size": tally.bytes.total()},
    }


def hub_license(licenses: Iterable[str | None]) -> str:
    """Return the license of all records if the Hub knows it.

    Otherwise it is `other`, or `unknown` if no record has one.
    """
    names = {name.lower() if name else UNKNOWN_LICENSE for name in licenses}
    if names <= {UNKNOWN_LICENSE}:
        return UNKNOWN_LICENSE
    return next(iter(names)) if len(names) == 1 and names <= HUB_LICENSES else "other"
