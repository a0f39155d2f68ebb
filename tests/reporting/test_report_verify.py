"""Reading a report back: each thing that can be tampered with or go stale is planted and found; the true state is silent."""

import pytest

from provenlm.core import hashing
from provenlm.core.audit import Metric
from provenlm.reporting import verify

PARAMS = {"recipes.toy.train": {"steps": 7, "lr": 0.001}}
DISK = {"data/words/tokens": "aa", "models/toy": "bb"}


@pytest.fixture
def train(source):
    facts = {
        "params": PARAMS,
        "params_digest": hashing.sha256_json(PARAMS),
        "inputs": [["data/words/tokens", "aa"]],
        "outputs": [["models/toy", "bb"]],
        "code": ["stages/train.py"],
        "code_digest": "cc",
    }
    return source("toy", "train", provenance=facts, loss=1.5)


def faults(audited, disk=DISK, params=PARAMS) -> list[str]:
    return verify.audit_mismatches(audited, disk.get, params.get)


def test_an_audit_that_fits_is_silent(train):
    assert faults(train) == []


def test_a_changed_artefact_is_found(train):
    assert faults(train, {**DISK, "models/toy": "b0"}) == ["toy/train: models/toy has changed since it was among its outputs"]


def test_an_audit_older_than_its_inputs_is_found(train):
    assert faults(train, {**DISK, "data/words/tokens": "a0"}) == [
        "toy/train: data/words/tokens has changed since it was among its inputs"
    ]


def test_an_artefact_that_is_not_there_is_named_with_what_brings_it(train):
    assert faults(train, {"models/toy": "bb"}) == ["toy/train: data/words/tokens is not there; `dvc pull` or `dvc repro` brings it"]


def test_an_audit_of_another_subject_in_its_place_is_found(train, source):
    other = source("other", "train", provenance=train.audit.provenance)
    swapped = type(train)("toy", "train", train.path, train.digest, other.audit)
    assert faults(swapped) == ["audits/toy/train.json: is an audit of other/train"]


def test_an_audit_of_a_run_with_other_params_is_found(train):
    changed = {"recipes.toy.train": {"steps": 8, "lr": 0.001}}
    assert faults(train, params=changed) == ["toy/train: recipes.toy.train in params.yaml is not what it was run with"]


def test_params_edited_in_an_audit_no_longer_have_their_digest(train, source):
    edited = {"recipes.toy.train": {"steps": 8, "lr": 0.001}}
    forged = source("toy", "train", provenance={**train.audit.provenance, "params": edited})
    assert faults(forged, params=edited) == ["toy/train: the digest of its params is not theirs"]


def test_a_stage_that_read_something_else_than_was_written_is_found(train, source):
    made = {"outputs": [["data/words/tokens", "aa"]]}
    later = {"outputs": [["data/words/tokens", "a0"]]}
    assert verify.lineage_mismatches([source("words", "tokenize", provenance=made), train]) == []
    assert verify.lineage_mismatches([source("words", "tokenize", provenance=later), train]) == [
        "toy/train: read another data/words/tokens than words/tokenize wrote"
    ]


def test_other_code_than_the_audit_was_made_by_is_found(train):
    assert verify.code_mismatch(train, lambda paths: "cc" if list(paths) == ["stages/train.py"] else None) == []
    assert verify.code_mismatch(train, lambda paths: "dd") == ["toy/train: made by other code than lies here"]
    assert verify.code_mismatch(train, lambda paths: None) == ["toy/train: made by other code than lies here"]


def test_one_edited_digit_is_found_with_its_line():
    rendered = {"p.md": b"# T\n\n| loss | 1.912 nats |\n"}
    assert verify.file_mismatches(rendered, rendered) == []
    assert verify.file_mismatches(rendered, {"p.md": b"# T\n\n| loss | 1.812 nats |\n"}) == [
        "p.md: line 3 says '| loss | 1.812 nats |' where the audits say '| loss | 1.912 nats |'"
    ]


@pytest.mark.parametrize(
    ("found", "fault"),
    [
        ({"p.md": b"a\nb\n"}, "p.md: line 2 says 'b' where the audits say ''"),
        ({"p.md": b""}, "p.md: line 1 says '' where the audits say 'a'"),
        ({"p.md": b"a\r\n"}, "p.md: differs in its line ends"),
        ({"p.md": b"\xff\n"}, "p.md: line 1 says '\N{REPLACEMENT CHARACTER}' where the audits say 'a'"),
        ({}, "p.md: not there"),
        ({"p.md": b"a\n", "p_files/x.svg": b""}, "p_files/x.svg: no audit has such a plot"),
    ],
)
def test_lines_added_or_taken_and_files_lost_or_strange_are_found(found, fault):
    assert verify.file_mismatches({"p.md": b"a\n"}, found) == [fault]


def test_a_forged_count_of_checks_is_found(source):
    count = Metric(1, "", "failed", "counted")
    own = source("p", "report", **{"checks.fail": count})
    assert verify.count_mismatches(own, {"checks.fail": count}) == []
    forged = source("p", "report", **{"checks.fail": Metric(0, "", "failed", "counted")})
    assert verify.count_mismatches(forged, {"checks.fail": count}) == ["p/report.checks.fail: not 1"]
