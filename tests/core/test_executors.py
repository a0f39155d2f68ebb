import importlib.util

import pytest

from provenlm.core import records
from provenlm.core.errors import ProvenlmError
from provenlm.core.executors import base, local
from provenlm.core.executors.base import RecordMap
from provenlm.core.executors.local import LocalExecutor
from provenlm.core.records import Record

LENGTHS = RecordMap(lambda batch: [len(item.content) for item in batch], lambda n: str(n).encode(), lambda data: int(data))


def make_records(sizes: list[int]) -> list[Record]:
    return [Record.from_content(bytes([i % 256]) * size, "text/plain", f"s/{i}") for i, size in enumerate(sizes)]


def test_records_are_returned_with_their_results_in_order():
    items = make_records([3, 1, 2])
    assert list(LocalExecutor(lambda: items).map(LENGTHS)) == list(zip(items, [3, 1, 2], strict=True))


def test_batches_are_bounded_in_bytes_and_in_records(monkeypatch):
    monkeypatch.setattr(base, "BATCH_BYTES", 10)
    monkeypatch.setattr(base, "BATCH_RECORDS", 3)
    sizes = [[len(item.content) for item in batch] for batch in base.batch_records(make_records([4, 4, 4, 25, 1, 1, 1, 1]))]
    assert sizes == [[4, 4], [4], [25], [1, 1, 1], [1]]


def test_the_default_executor_is_this_process(tmp_path):
    records.write_records(make_records([3, 1]), tmp_path)
    corpus = local.make_executor(tmp_path, None)
    assert isinstance(corpus, LocalExecutor)
    assert [length for _, length in corpus.map(LENGTHS)] == [3, 1]


def test_an_unknown_executor_is_an_error_that_names_the_known_ones(tmp_path):
    with pytest.raises(
        ProvenlmError, match=r"executor: must be null \(this process\), daft \(all cores\) or ray://HOST:PORT .*, got 'spark'"
    ):
        local.make_executor(tmp_path, "spark")


@pytest.mark.skipif(importlib.util.find_spec("daft") is not None, reason="Daft is installed")
def test_a_missing_daft_is_an_error_that_says_how_to_install_it(tmp_path):
    with pytest.raises(ProvenlmError, match=r"daft needs Daft: run `pip install -e '\.\[scale\]'"):
        local.make_executor(tmp_path, "daft")


@pytest.mark.skipif(importlib.util.find_spec("daft") is None, reason="needs the extra [scale]")
def test_daft_returns_results_in_record_order_across_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROW_GROUP_BYTES", 2000)
    monkeypatch.setattr(records, "SHARD_BYTES", 9000)
    items = make_records([(7 * i) % 40 for i in range(60)])
    items += [items[3], items[3].with_metadata(score=1.0)]  # the same record twice, and with other metadata
    records.write_records(items, tmp_path)
    assert len(list(tmp_path.iterdir())) > 2
    assert list(local.make_executor(tmp_path, "daft").map(LENGTHS)) == [(item, len(item.content)) for item in items]
