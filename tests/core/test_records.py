import pyarrow.parquet as pq
import pytest

from provenlm.core import records
from provenlm.core.errors import ProvenlmError
from provenlm.core.records import Record


def make_records(count: int, size: int = 10) -> list[Record]:
    return [Record.from_content(f"{i:0{size}}".encode(), "text/plain", f"s:{i}", title="ä") for i in range(count)]


def test_records_are_read_back_in_order(tmp_path):
    assert records.write_records(make_records(1000), tmp_path) == 1000
    assert list(records.read_records(tmp_path)) == make_records(1000)
    assert records.count_records(tmp_path) == 1000


def test_the_id_depends_on_the_content_alone():
    assert Record.from_content(b"a", "text/plain", "x").id == Record.from_content(b"a", "text/html", "y", t=1).id
    assert Record.from_content(b"a", "text/plain", "x").id != Record.from_content(b"b", "text/plain", "x").id


def test_a_large_corpus_is_split_into_shards(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "ROW_GROUP_BYTES", 2000)
    monkeypatch.setattr(records, "SHARD_BYTES", 8000)
    records.write_records(make_records(50), tmp_path)
    assert len(list(tmp_path.glob("*.parquet"))) == 4
    assert list(records.read_records(tmp_path)) == make_records(50)


def test_an_empty_corpus_is_one_shard_without_rows(tmp_path):
    assert records.write_records([], tmp_path) == 0
    assert list(records.read_records(tmp_path)) == []


def test_other_tables_in_the_folder_are_not_read_as_records(tmp_path):
    records.write_records(make_records(2), tmp_path)
    pq.write_table(pq.read_table(tmp_path / "00000.parquet").select(["id"]), tmp_path / "dropped.parquet")
    assert len(list(records.read_records(tmp_path))) == 2


def test_a_truncated_shard_is_an_error_that_names_it(tmp_path):
    records.write_records(make_records(2000), tmp_path)
    shard = tmp_path / "00000.parquet"
    shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    with pytest.raises(ProvenlmError, match=r"00000\.parquet: damaged, or not a shard of records"):
        list(records.read_records(tmp_path))


def test_a_folder_without_shards_is_an_error(tmp_path):
    with pytest.raises(ProvenlmError, match="no records; run the stage"):
        list(records.read_records(tmp_path))


def test_a_flipped_bit_is_an_error_that_names_the_shard(tmp_path):
    content = bytes(range(256)) * 400
    records.write_records([Record.from_content(content + bytes([i]), "text/plain", f"s/{i}") for i in range(20)], tmp_path)
    (shard,) = tmp_path.glob("*.parquet")
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ProvenlmError, match=r"00000\.parquet: damaged"):
        list(records.read_records(tmp_path))
