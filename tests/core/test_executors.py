import importlib.util

import pytest

from provenlm.core import records
from provenlm.core.errors import UserError
from provenlm.core.executors import base, local
from provenlm.core.executors.base import Work
from provenlm.core.executors.local import Here
from provenlm.core.records import Record

LENGTHS = Work(lambda batch: [len(item.body) for item in batch], lambda n: str(n).encode(), lambda data: int(data))


def some(sizes: list[int]) -> list[Record]:
    return [Record.of(bytes([i % 256]) * size, "text/plain", f"s/{i}") for i, size in enumerate(sizes)]


def test_each_record_comes_with_its_result_in_order():
    items = some([3, 1, 2])
    assert list(Here(lambda: items).map(LENGTHS)) == list(zip(items, [3, 1, 2], strict=True))


def test_batches_are_bounded_in_bytes_and_in_records(monkeypatch):
    monkeypatch.setattr(base, "BATCH_BYTES", 10)
    monkeypatch.setattr(base, "BATCH_RECORDS", 3)
    sizes = [[len(item.body) for item in batch] for batch in base.batches(some([4, 4, 4, 25, 1, 1, 1, 1]))]
    assert sizes == [[4, 4], [4], [25], [1, 1, 1], [1]]


def test_without_a_name_records_are_worked_on_in_this_process(tmp_path):
    records.write(some([3, 1]), tmp_path)
    corpus = local.over(tmp_path, None)
    assert isinstance(corpus, Here)
    assert [length for _, length in corpus.map(LENGTHS)] == [3, 1]


def test_an_engine_that_is_not_known_is_an_error_that_names_those_that_are(tmp_path):
    with pytest.raises(UserError, match=r"'spark' is none of: null \(this process\), daft \(all cores\), ray://HOST:PORT"):
        local.over(tmp_path, "spark")


@pytest.mark.skipif(importlib.util.find_spec("daft") is not None, reason="Daft is installed")
def test_an_engine_that_is_not_installed_is_an_error_that_says_how_to_install_it(tmp_path):
    with pytest.raises(UserError, match=r"daft needs Daft: pip install -e '\.\[scale\]'"):
        local.over(tmp_path, "daft")


@pytest.mark.skipif(importlib.util.find_spec("daft") is None, reason="needs the extra [scale]")
def test_daft_gives_results_in_the_order_of_the_records_over_several_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROW_GROUP_BYTES", 2000)
    monkeypatch.setattr(records, "SHARD_BYTES", 9000)
    items = some([(7 * i) % 40 for i in range(60)])
    items += [items[3], items[3].with_facts(score=1.0)]  # the same record twice, and with other facts
    records.write(items, tmp_path)
    assert len(list(tmp_path.iterdir())) > 2
    assert list(local.over(tmp_path, "daft").map(LENGTHS)) == [(item, len(item.body)) for item in items]
