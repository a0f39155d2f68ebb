"""Test all stages on a folder of tasks: duplicates go, solutions stay out of training."""

import json
import sys

import pyarrow.parquet as pq
import pytest
from in_process import run_stage
from ruamel.yaml import YAML

from provenlm.core.audit import read_audit
from provenlm.core.paths import ProjectPaths
from provenlm.data.token_dataset import load_token_dataset
from provenlm.domains.grids.content.puzzle import encode_puzzle
from provenlm.domains.grids.content.symmetries import GridView
from provenlm.domains.grids.tokenize.grid_batches import read_puzzles
from provenlm.domains.grids.tokenize.packed_store import open_store
from tests.domains.grids.puzzles import random_puzzle, write_folder
from tests.test_architecture import closure

VIEW = GridView(5, (3, 1, 2, 0, 4, 9, 6, 7, 8, 5))
SECRET = 12  # number of the puzzle that the evaluation and, in another view, the training split have
TINY = {"arch": "gpt", "variant": "gpt2", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
        "intermediate_size": 8, "max_position_embeddings": 64}  # fmt: skip
TRAIN = {"threads": 1, "seq_len": 64, "global_batch_size": 2, "max_steps": 2, "eval": None, "spike_guard": None, "lr_schedule": {"warmup_steps": 1},
         "batches": {"layout": "tokens"}}  # fmt: skip


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> ProjectPaths:
    """Run the stages of a corpus with a planted leak, two refused files and one task with a fault."""
    root = tmp_path_factory.mktemp("grids")
    tasks = {f"training/{n:08x}": json.loads(encode_puzzle(random_puzzle(n))) for n in range(6)}
    tasks |= {f"evaluation/{n:08x}": json.loads(encode_puzzle(random_puzzle(n))) for n in range(10, 14)}
    tasks["training/leaked"] = json.loads(encode_puzzle(VIEW.apply_to_puzzle(random_puzzle(SECRET))))
    tasks["training/shared"] = {**json.loads(encode_puzzle(random_puzzle(20))), "test": tasks["evaluation/0000000b"]["test"]}
    tasks["training/broken"] = {"train": [{"input": [[10]], "output": [[1]]}], "test": [{"input": [[1]]}]}
    write_folder(root / "tasks", {**tasks, "training/text": "no JSON", "training/list": "[]"})
    corpus = {
        "domain": "grids",
        "scrape": {"sources": [{"kind": "folder", "path": "tasks"}]},
        "filter": {},
        "dedupe": {},
        "tokenize": {},
    }
    recipe = {"corpus": "a", "domain": "grids", "base_model": "none", "model": TINY, "train": TRAIN, "validate": {}}
    with (root / "params.yaml").open("w") as file:
        YAML().dump({"corpora": {"a": corpus}, "recipes": {"r": recipe}, "reports": {}}, file)
    for stage in ("scrape", "filter", "dedupe", "tokenize"):
        result = run_stage(root, stage, "a")
        assert result.returncode == 0, result.stderr
    return ProjectPaths(root)


def values(project, stage):
    return {name: metric.value for name, metric in read_audit(project.audit_json("a", stage)).metrics.items()}


def test_nothing_is_dropped_without_a_reason(project):
    assert (values(project, "scrape")["urls.seen"], values(project, "scrape")["records"]) == (15, 13)
    assert values(project, "filter")["records.kept"] == 12
    dropped = pq.read_table(project.corpus_dir("a", "filtered") / "dropped.parquet").to_pylist()
    assert [(row["source"], row["drop_reason"]) for row in dropped] == [("tasks/training/broken.json", "color")]
    assert (
        values(project, "tokenize")["pipeline.unaccounted_total"] == values(project, "tokenize")["integrity.decode_mismatch"] == 0
    )


def test_copies_of_reported_tasks_are_dropped_on_the_training_side(project):
    rows = pq.read_table(project.corpus_dir("a", "deduped") / "duplicates.parquet").to_pylist()
    names = {row["source"].split("/", 1)[1]: row["duplicate_of_source"].split("/", 1)[1] for row in rows}
    assert names["training/leaked.json"] == f"evaluation/{SECRET:08x}.json"
    assert names["training/shared.json"] == "evaluation/0000000b.json" and len(rows) == 2
    store = open_store(project.corpus_dir("a", "tokens") / "tokenizer" / "tasks.grids")
    assert [bool(names) for names in store.duplicates] == [task_id in ("0000000b", f"{SECRET:08x}") for task_id in store.ids]


def test_no_token_and_no_packed_task_holds_a_solution(project):
    tokens_dir = project.corpus_dir("a", "tokens")
    dataset, store = load_token_dataset(tokens_dir), open_store(tokens_dir / "tokenizer" / "tasks.grids")
    puzzles = read_puzzles(dataset.train, dataset)
    assert len(puzzles) == len(store) == 10 and sum(store.is_reported) == 4
    for number, is_reported in enumerate(store.is_reported):
        assert all((pair.output is None) == is_reported for pair in (*puzzles[number].test, *store[number].test))
    solutions = json.loads((tokens_dir / "tokenizer" / "solutions.json").read_text())
    assert solutions.keys() == {f"{n:08x}" for n in range(10, 14)}
    assert solutions["0000000c"] == [pair.output.tolist() for pair in random_puzzle(SECRET).test]


def test_the_stage_train_cannot_import_what_reads_solutions():
    files = closure("train", {"domains": "grids", "models": "gpt"})
    assert "provenlm/domains/grids/tokenize/spec.py" in files
    assert not [file for file in files if file.startswith("provenlm/domains/grids/evaluate")]


OPENED: list[str] = []


def watch_solutions(event: str, arguments: tuple) -> None:
    """Note which module opens a file of solutions."""
    if event == "open" and str(arguments[0]).endswith("solutions.json"):
        frame = sys._getframe(1)
        while frame.f_globals["__name__"] == "pathlib":
            frame = frame.f_back
        OPENED.append(frame.f_globals["__name__"])


def test_training_opens_the_solutions_for_their_digest_only(project):
    """An audit hook of the interpreter sees every file that the process opens."""
    sys.addaudithook(watch_solutions)
    OPENED.clear()
    result = run_stage(project.root, "train", "r")
    assert result.returncode == 0, result.stderr
    assert set(OPENED) == {"provenlm.core.hashing"}, "the provenance of the audit names the digest of each input"
    OPENED.clear()
    (project.corpus_dir("a", "tokens") / "tokenizer" / "solutions.json").read_text()
    assert [__name__] == OPENED, "the hook sees a planted reader"
