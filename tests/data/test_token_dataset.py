"""Write token datasets, load them, and damage their files."""

import json
import random

import numpy as np
import pyarrow.parquet as pq
import pytest

from provenlm.core.errors import DataError
from provenlm.data import token_dataset
from provenlm.data.token_dataset import TokenizedDocument, assign_split

SPECIAL = {"pad": 0, "unk": 1, "bos": 2, "eos": 3}


def document(name: str, ids: list[int], cluster: str | None = None) -> TokenizedDocument:
    return TokenizedDocument(name, cluster or name, 10 * len(ids), np.array(ids, np.uint32))


def names(count: int) -> list[str]:
    return [f"cluster {i}" for i in range(count)]


VAL = [name for name in names(200) if assign_split(name, 0.3) == "val"]
TRAIN = [name for name in names(200) if assign_split(name, 0.3) == "train"]


def write_sample(folder) -> list[TokenizedDocument]:
    documents = [document(TRAIN[0], [5, 6]), document(VAL[0], [7]), document(TRAIN[1], [8, 9, 10]), document(TRAIN[2], [])]
    token_dataset.write_token_dataset(folder, documents, 11, SPECIAL, 0.3)
    return documents


def test_documents_are_loaded_between_their_special_tokens(tmp_path):
    write_sample(tmp_path)
    tokens = token_dataset.load_token_dataset(tmp_path)
    assert tokens.train.ids.tolist() == [2, 5, 6, 3, 2, 8, 9, 10, 3, 2, 3]
    assert tokens.train.doc_offsets.tolist() == [0, 4, 9, 11]
    assert tokens.train.record_ids == TRAIN[:3]
    assert tokens.train.doc_bytes.tolist() == [20, 30, 0]
    assert tokens.val.ids.tolist() == [2, 7, 3]
    assert (tokens.vocab_size, tokens.special_tokens) == (11, SPECIAL)


def test_a_tokenizer_without_bos_and_eos_gets_none(tmp_path):
    token_dataset.write_token_dataset(tmp_path, [document("a", [4, 1])], 5, {"pad": 0}, 0.0)
    assert token_dataset.load_token_dataset(tmp_path).train.ids.tolist() == [4, 1]


@pytest.mark.parametrize(("vocab_size", "dtype"), [(37, "uint16"), (65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_two_bytes_if_they_fit(tmp_path, vocab_size, dtype):
    token_dataset.write_token_dataset(tmp_path, [document("a", [vocab_size - 1])], vocab_size, {"pad": 0}, 0.0)
    tokens = token_dataset.load_token_dataset(tmp_path)
    assert tokens.train.ids.dtype == dtype
    assert tokens.train.ids.tolist() == [vocab_size - 1]


def test_an_id_outside_the_vocabulary_is_refused(tmp_path):
    with pytest.raises(ValueError, match="token ids must be < vocab_size = 11, got 11"):
        token_dataset.write_token_dataset(tmp_path, [document("a", [11])], 11, SPECIAL, 0.3)


def test_val_fraction_0_gives_an_empty_validation_split(tmp_path):
    token_dataset.write_token_dataset(tmp_path, [document(name, [4]) for name in names(50)], 11, SPECIAL, 0.0)
    tokens = token_dataset.load_token_dataset(tmp_path)
    assert (len(tokens.val.ids), tokens.val.doc_offsets.tolist(), tokens.val.record_ids) == (0, [0], [])
    assert len(tokens.train.record_ids) == 50


def test_no_documents_give_two_empty_splits(tmp_path):
    token_dataset.write_token_dataset(tmp_path, [], 11, SPECIAL, 0.5)
    token_dataset.verify_digests(tmp_path)
    assert len(token_dataset.load_token_dataset(tmp_path).train.ids) == 0


def test_a_cluster_is_in_one_split(tmp_path):
    documents = [document(f"{cluster}/{i}", [4], cluster) for cluster in names(100) for i in range(3)]
    random.Random(0).shuffle(documents)
    token_dataset.write_token_dataset(tmp_path, documents, 11, SPECIAL, 0.3)
    clusters = {document.id: document.cluster for document in documents}
    tokens = token_dataset.load_token_dataset(tmp_path)
    train, val = ({clusters[name] for name in split.record_ids} for split in (tokens.train, tokens.val))
    assert train
    assert val
    assert not train & val


def test_adding_documents_changes_no_assignment(tmp_path):
    few, many = names(100), names(1000)
    for folder, clusters in (("few", few), ("many", many[::-1])):
        (tmp_path / folder).mkdir()
        token_dataset.write_token_dataset(tmp_path / folder, [document(name, [4]) for name in clusters], 11, SPECIAL, 0.3)
    before, after = token_dataset.load_token_dataset(tmp_path / "few"), token_dataset.load_token_dataset(tmp_path / "many")
    assert set(before.val.record_ids) == set(after.val.record_ids) & set(few)


def test_a_larger_val_fraction_contains_the_smaller_one():
    assert {name for name in names(500) if assign_split(name, 0.1) == "val"} < {
        name for name in names(500) if assign_split(name, 0.2) == "val"
    }


def test_the_validation_split_has_the_configured_fraction():
    assert sum(assign_split(name, 0.3) == "val" for name in names(10_000)) / 10_000 == pytest.approx(0.3, abs=0.02)


def test_the_index_maps_tokens_to_records(tmp_path):
    documents = write_sample(tmp_path)
    rows = pq.read_table(tmp_path / "index.parquet").to_pylist()
    assert [row["id"] for row in rows] == [document.id for document in documents]
    assert rows[1] == {"id": VAL[0], "cluster": VAL[0], "split": "val", "tokens": 3, "bytes": 10}


def test_the_same_documents_give_the_same_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        write_sample(tmp_path / name)
    for file in ("train.bin", "val.bin", "index.parquet", "manifest.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_undamaged_files_pass_verification(tmp_path):
    write_sample(tmp_path)
    token_dataset.verify_digests(tmp_path)


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "index.parquet"])
def test_one_changed_bit_is_detected_and_its_file_named(tmp_path, name):
    write_sample(tmp_path)
    data = bytearray((tmp_path / name).read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / name).write_bytes(data)
    with pytest.raises(DataError, match=rf"{name}: digest must be \w+, got \w+; run tokenize again"):
        token_dataset.verify_digests(tmp_path)


@pytest.mark.parametrize("name", ["train.bin", "val.bin"])
def test_a_truncated_array_is_refused_by_name(tmp_path, name):
    write_sample(tmp_path)
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=rf"{name}: must hold \d+ tokens of uint16, got \d+ bytes"):
        token_dataset.load_token_dataset(tmp_path)


@pytest.mark.parametrize("name", ["train.bin", "val.bin", "index.parquet", "manifest.json"])
def test_a_missing_file_is_refused_by_name(tmp_path, name):
    write_sample(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(DataError, match=name):
        token_dataset.load_token_dataset(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"dtype": "uint16"}'])
def test_a_damaged_manifest_is_refused(tmp_path, text):
    write_sample(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json: cannot load a token dataset"):
        token_dataset.load_token_dataset(tmp_path)


def test_a_truncated_index_is_refused_by_name(tmp_path):
    write_sample(tmp_path)
    path = tmp_path / "index.parquet"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DataError, match=r"index\.parquet: not readable"):
        token_dataset.load_token_dataset(tmp_path)


def test_the_manifest_describes_the_files(tmp_path):
    write_sample(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    assert {key: manifest[key] for key in ("dtype", "vocab_size", "special_tokens", "val_fraction")} == {
        "dtype": "uint16",
        "vocab_size": 11,
        "special_tokens": SPECIAL,
        "val_fraction": 0.3,
    }
