"""Finish a scrape only once its records and its audit stand.

So a kill in between costs no request.
"""

import hashlib
import shutil
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from provenlm.core import io, records
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import log_line
from provenlm.scraping.crawl import database

RECEIPT = "delivered.md5"
MAX_RECEIPT_SECONDS = 3600.0  # an older delivery that DVC did not record is not taken again


def previous_ids(state_dir: Path, records_dir: Path) -> dict[str, str]:
    """Map source to id for the records of the scrape before this one.

    They are kept until this scrape is delivered, so that it compares with the same records after a kill. A damaged previous
    scrape counts as none; this run replaces it.
    """
    folder = state_dir / "previous"
    try:
        ids_by_source = records.read_ids_by_source(folder if folder.exists() else records_dir)
    except ProvenlmError as error:
        log_line(f"{error}; the comparison with the previous scrape is skipped")
        ids_by_source = {}
    with io.atomic_dir(folder) as new_folder:
        columns = {"source": pa.array(ids_by_source.keys(), pa.string()), "id": pa.array(ids_by_source.values(), pa.string())}
        pq.write_table(pa.table(columns), new_folder / "00000.parquet")
    return ids_by_source


def deliver(state_dir: Path, audit: Path, by_dvc: bool) -> None:
    """Finish the scrape of `state_dir`, whose records and `audit` stand.

    For a stage that DVC runs, the MD5 of the audit is kept, which DVC records when it has stored the outs.
    """
    if by_dvc:
        io.write_text(state_dir / RECEIPT, hashlib.md5(audit.read_bytes(), usedforsecurity=False).hexdigest() + "\n")
    else:
        (state_dir / RECEIPT).unlink(missing_ok=True)
    database.mark_delivered(state_dir)
    shutil.rmtree(state_dir / "previous", ignore_errors=True)
    for leftover in audit.parent.glob(f".tmp-*-{audit.name}"):  # of a process killed while it wrote the audit
        leftover.unlink(missing_ok=True)


def reopen_unrecorded(state_dir: Path, dvc_lock: Path) -> None:
    """Take the last scrape again, without a request, if DVC did not record it.

    DVC records the audit in `dvc_lock` once it has stored the outs; it may have been killed before.
    """
    receipt = state_dir / RECEIPT
    if not receipt.exists() or time.time() - receipt.stat().st_mtime > MAX_RECEIPT_SECONDS:
        return
    digest = receipt.read_text(encoding="utf-8").strip()
    if not dvc_lock.exists() or digest not in dvc_lock.read_text(encoding="utf-8"):
        log_line("dvc.lock does not record the last scrape; its pages are taken again without a request")
        database.mark_undelivered(state_dir)
