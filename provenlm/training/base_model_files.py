"""Write and read what fine-tuning must know of its base model.

That is which tokenizer it was trained with, and on which records.
"""

import io
import json
from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import hashing
from provenlm.core.errors import DataError
from provenlm.training.checkpoints.checkpoint import METADATA_FILE

TRAINING_RECORDS_FILE = "training_records.parquet"  # of a model folder: ids of all records that the weights were trained on


def check_base_tokenizer(base_model_dir: Path, tokenizer_dir: Path, root: Path) -> None:
    """Raise DataError unless a base model was trained with this tokenizer.

    Files are compared, so that each token id means the same. Weights from elsewhere, in a folder without model.json, are not checked.
    """
    path = base_model_dir / METADATA_FILE
    if not path.is_file():
        return
    actual = hashing.sha256_path(tokenizer_dir)
    expected = json.loads(path.read_text(encoding="utf-8")).get("tokenizer_sha256", "")
    if actual != expected:
        base, tokenizer = (folder.relative_to(root).as_posix() for folder in (base_model_dir, tokenizer_dir))
        raise DataError(
            f"{tokenizer}: must be the tokenizer of the base model {base}, because token ids must mean the same: "
            f"digest {expected[:12] or 'unknown'}, got {actual[:12]}; use the same section `tokenize` for both corpora"
        )


def training_records_to_parquet(record_ids: Iterable[str], base_model_dir: Path | None) -> bytes:
    """Serialize the ids of training records, with those of the base model."""
    base_ids = None if base_model_dir is None else read_training_records(base_model_dir)
    buffer = io.BytesIO()
    pq.write_table(pa.table({"id": pa.array(sorted({*record_ids, *(base_ids or ())}), pa.string())}), buffer)
    return buffer.getvalue()


def read_training_records(folder: Path) -> frozenset[str] | None:
    """Return the ids of the records that a model was trained on.

    None if they are unknown. Raises DataError if the file is damaged.
    """
    path = folder / TRAINING_RECORDS_FILE
    if not path.is_file():
        return None
    try:
        return frozenset(pq.read_table(path, columns=["id"])["id"].to_pylist())
    except (OSError, ValueError, KeyError, pa.ArrowException) as error:
        raise DataError(f"{path.as_posix()}: not readable: {' '.join(str(error).split())}; train the model again") from None
