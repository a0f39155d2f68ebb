"""Test verification: every kind of tampering or staleness is planted and found; a consistent state gives no mismatch."""

import pytest

from provenlm.core import hashing
from provenlm.core.audit import Metric
from provenlm.reporting import verify

PARAMS = {"recipes.toy.train": {"steps": 7, "lr": 0.001}}
DISK = {"data/words/tokens": "aa", "models/toy": "bb"}


@pytest.fixture
def train(make_audit_file):
    provenance = {
        "params": PARAMS,
        "params_digest": hashing.sha256_json(PARAMS),
        "inputs": [["data/words/tokens", "aa"]],
        "outputs": [["models/toy", "bb"]],
        "code": ["stages/train.py"],
        "code_digest": "cc",
    }
    return make_audit_file("toy", "train", provenance=provenance, loss=1.5)


def mismatches(audit_file, disk=DISK, params=PARAMS) -> list[str]:
    return verify.audit_mismatches(audit_file, disk.get, params.get)


def test_a_consistent_audit_gives_no_mismatch(train):
    assert mismatches(train) == []


def test_a_changed_artifact_is_found(train):
    assert mismatches(train, {**DISK, "models/toy": "b0"}) == [
        "toy/train: models/toy has changed since it was recorded in the outputs"
    ]


def test_an_audit_older_than_its_inputs_is_found(train):
    assert mismatches(train, {**DISK, "data/words/tokens": "a0"}) == [
        "toy/train: data/words/tokens has changed since it was recorded in the inputs"
    ]


def test_a_missing_artifact_is_listed_with_the_commands_that_make_it(train):
    assert mismatches(train, {"models/toy": "bb"}) == [
        "toy/train: data/words/tokens is missing; `dvc pull` fetches it, `dvc repro` rebuilds it"
    ]


def test_an_audit_of_a_different_subject_is_found(train, make_audit_file):
    other = make_audit_file("other", "train", provenance=train.audit.provenance)
    swapped = type(train)("toy", "train", train.path, train.digest, other.audit)
    assert mismatches(swapped) == ["audits/toy/train.json: must be the audit of toy/train, got that of other/train"]


def test_an_audit_of_a_run_with_different_params_is_found(train):
    changed = {"recipes.toy.train": {"steps": 8, "lr": 0.001}}
    assert mismatches(train, params=changed) == ["toy/train: recipes.toy.train in params.yaml has changed since the stage ran"]


def test_params_edited_in_an_audit_do_not_match_their_digest(train, make_audit_file):
    edited = {"recipes.toy.train": {"steps": 8, "lr": 0.001}}
    forged = make_audit_file("toy", "train", provenance={**train.audit.provenance, "params": edited})
    assert mismatches(forged, params=edited) == ["toy/train: params_digest does not match the recorded params"]


def test_a_stage_that_read_a_different_version_is_found(train, make_audit_file):
    original = {"outputs": [["data/words/tokens", "aa"]]}
    later = {"outputs": [["data/words/tokens", "a0"]]}
    assert verify.lineage_mismatches([make_audit_file("words", "tokenize", provenance=original), train]) == []
    assert verify.lineage_mismatches([make_audit_file("words", "tokenize", provenance=later), train]) == [
        "toy/train: read a different version of data/words/tokens than words/tokenize wrote"
    ]


def test_an_audit_written_by_different_code_is_found(train):
    assert verify.code_mismatch(train, lambda paths: "cc" if list(paths) == ["stages/train.py"] else None) == []
    assert verify.code_mismatch(train, lambda paths: "dd") == ["toy/train: written by a different version of the code"]
    assert verify.code_mismatch(train, lambda paths: None) == ["toy/train: written by a different version of the code"]


def test_one_edited_digit_is_found_with_its_line():
    rendered = {"p.md": b"# T\n\n| loss | 1.912 nats |\n"}
    assert verify.file_mismatches(rendered, rendered) == []
    assert verify.file_mismatches(rendered, {"p.md": b"# T\n\n| loss | 1.812 nats |\n"}) == [
        "p.md: line 3 must be '| loss | 1.912 nats |', got '| loss | 1.812 nats |'"
    ]


@pytest.mark.parametrize(
    ("actual", "mismatch"),
    [
        ({"p.md": b"a\nb\n"}, "p.md: line 2 must be '', got 'b'"),
        ({"p.md": b""}, "p.md: line 1 must be 'a', got ''"),
        ({"p.md": b"a\r\n"}, "p.md: differs in its line endings"),
        ({"p.md": b"\xff\n"}, "p.md: line 1 must be 'a', got '\N{REPLACEMENT CHARACTER}'"),
        ({}, "p.md: missing"),
        ({"p.md": b"a\n", "p_files/x.svg": b""}, "p_files/x.svg: not a file of this report"),
    ],
)
def test_changed_missing_and_unexpected_files_are_found(actual, mismatch):
    assert verify.file_mismatches({"p.md": b"a\n"}, actual) == [mismatch]


def test_a_forged_count_of_checks_is_found(make_audit_file):
    count = Metric(1, "", "failed", "counted")
    own_audit = make_audit_file("p", "report", **{"checks.fail": count})
    assert verify.count_mismatches(own_audit, {"checks.fail": count}) == []
    forged = make_audit_file("p", "report", **{"checks.fail": Metric(0, "", "failed", "counted")})
    assert verify.count_mismatches(forged, {"checks.fail": count}) == ["p/report.checks.fail: must be 1"]
