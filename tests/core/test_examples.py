"""Test that examples are written, listed and read with all their files."""

import pytest

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import DataError
from provenlm.core.examples import Example, read_examples, write_examples

SAMPLE = Example("sample-1", "Samples", "Sample 1", True, 0, {".mid": b"MThd", ".svg": b"<svg/>"})


def test_examples_round_trip(tmp_path):
    write_examples(tmp_path, [SAMPLE])
    assert read_examples(tmp_path) == [SAMPLE]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["examples.json", "sample-1.mid", "sample-1.svg"]


def test_a_folder_without_a_list_has_no_examples(tmp_path):
    assert read_examples(tmp_path) == []
    write_examples(tmp_path, [])
    assert read_examples(tmp_path) == []


def test_a_missing_file_is_an_error(tmp_path):
    write_examples(tmp_path, [SAMPLE])
    (tmp_path / "sample-1.mid").unlink()
    with pytest.raises(DataError, match="not a readable list of examples: .*sample-1.mid"):
        read_examples(tmp_path)


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([SAMPLE, SAMPLE], "names must be unique, got 'sample-1' twice"),
        ([Example("../x", "g", "t", True, 0, {})], "got '../x'"),
        ([Example("x", "g", "t", True, 0, {"/y": b""})], "name and suffixes must match"),
        ([Example("x", "g", "t", True, 1, {})], "pair 1 must be one generated and one real example, got 1 examples"),
        ([Example(name, "g", "t", True, 1, {}) for name in "xy"], "pair 1 must be one generated and one real example"),
    ],
)
def test_an_invalid_list_of_examples_is_refused(tmp_path, examples, message):
    with pytest.raises(ValueError, match=message):
        write_examples(tmp_path, examples)


def test_examples_of_a_probe_reach_the_recorder():
    recorder = MetricRecorder()
    with recorder.scope("probe") as inner:
        inner.examples.append(SAMPLE)
    assert recorder.examples == [SAMPLE]
