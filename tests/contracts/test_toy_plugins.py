"""Test that a domain and a model outside the package pass all stages: binary records, own tokenizer and batches, two objectives."""

import random
import shutil
import signal
import time
from pathlib import Path

import forked
import in_process
import pytest
from ruamel.yaml import YAML
from safetensors.numpy import load_file

from provenlm.core.audit import Audit, read_audit
from provenlm.core.paths import ProjectPaths
from provenlm.core.records import read_records
from provenlm.core.stages import CORPUS_STAGES, RECIPE_STAGES

ROOT = Path(__file__).resolve().parents[2]
HEADER = b"\x93EVT"
TRAIN = {
    "threads": 1,
    "seq_len": 16,
    "global_batch_size": 8,
    "max_steps": 60,
    "eval": {"interval": 20, "num_sequences": 4},
    "checkpoints": {"save_interval": 5},
    "spike_guard": None,
    "lr_schedule": {"warmup_steps": 2},
}
MODELS = {
    "autoencoder": {"arch": "toy_autoencoder", "hidden_size": 8, "latent_size": 4, "max_position_embeddings": 32},
    "decoder": {
        "arch": "gpt",
        "variant": "gpt2",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    },
}


def write_project(root: Path) -> Path:
    """Write event files and a params.yaml with one corpus, two recipes and a report."""
    generator = random.Random(5)
    events = [bytes([60 + pitch, duration]) for pitch in range(6) for duration in (1, 2)]
    (root / "events").mkdir(parents=True)
    for number in range(40):
        (root / "events" / f"{number:02}.evt").write_bytes(HEADER + b"".join(generator.choices(events, k=10)))
    corpus = {"domain": "toy_events", "scrape": {"sources": [{"kind": "folder", "path": "events"}]}}
    recipes = {
        name: {
            "corpus": "events",
            "domain": "toy_events",
            "base_model": "none",
            "model": model,
            "train": TRAIN,
            "validate": {"threads": 1},
        }
        for name, model in MODELS.items()
    }
    reports = {
        name: {"title": name, "recipes": [name], "corpora": ["events"], "checks": "standard"} for name in ("autoencoder", "decoder")
    }
    params = {
        "corpora": {"events": {**corpus, "filter": {}, "dedupe": {}, "tokenize": {}}},
        "recipes": recipes,
        "reports": {f"{name}_report": report for name, report in reports.items()},
    }
    with (root / "params.yaml").open("w") as file:
        YAML().dump(params, file)
    return root


def run_here(root: Path, stage: str, subject: str) -> None:
    """Run one stage in this process, which may be killed, with the toy plug-ins."""
    with in_process.toy_plugins():
        forked.run_stage(root, stage, subject)


def run_stage(root: Path, stage: str, subject: str) -> str:
    """Run one stage and return its output."""
    with in_process.toy_plugins():
        result = in_process.run_stage(root, stage, subject)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> ProjectPaths:
    """Run every stage of the corpus and of both recipes."""
    root = write_project(tmp_path_factory.mktemp("contracts") / "project")
    for stage in CORPUS_STAGES:
        run_stage(root, stage, "events")
    for recipe in MODELS:
        for stage in RECIPE_STAGES:
            run_stage(root, stage, recipe)
        run_stage(root, "report", f"{recipe}_report")
    return ProjectPaths(root)


def read(project: ProjectPaths, subject: str, stage: str) -> Audit:
    """Read one audit of the project."""
    return read_audit(project.audit_json(subject, stage))


def values(project: ProjectPaths, subject: str, stage: str) -> dict[str, object]:
    """Return the metric values of one audit."""
    return {name: metric.value for name, metric in read(project, subject, stage).metrics.items()}


def test_binary_records_keep_their_bytes_to_the_tokens(project):
    contents = {record.content for record in read_records(project.corpus_dir("events", "deduped"))}
    assert contents <= {path.read_bytes() for path in (project.root / "events").glob("*.evt")} and len(contents) == 40
    with pytest.raises(UnicodeDecodeError):
        next(iter(contents)).decode()
    metrics = values(project, "events", "tokenize")
    assert (metrics["integrity.matched"], metrics["integrity.decode_mismatch"]) == (40, 0)
    assert metrics["documents.train"] + metrics["documents.val"] == 40


@pytest.mark.parametrize("recipe", list(MODELS))
def test_every_recipe_trains_and_no_probe_fails(project, recipe):
    assert values(project, recipe, "train")["steps"] == 60
    metrics = values(project, recipe, "validate")
    assert metrics["eval.failures"] == 0, [name for name in metrics if name.endswith(".error")]


def test_both_objectives_of_the_autoencoder_are_trained(project):
    model = load_file(project.model_dir("autoencoder") / "model.safetensors")
    assert values(project, "autoencoder", "train")["params.updated_fraction"] == 1.0
    assert (model["prior_mean_Z"] != 0).all()


def test_probes_that_need_a_missing_capability_are_not_applicable(project):
    audit = read(project, "autoencoder", "validate")
    assert "next_token_logits" in audit.not_applicable["next_event"]
    reasons = " ".join(audit.not_applicable.values())
    assert {
        name for name in ("next_token_logits", "kv_cache", "hf_export", "model_metrics", "blocks") if name not in reasons
    } == set()
    assert "training_records" not in audit.not_applicable
    assert audit.metrics["training_records.records"].value == read(project, "events", "tokenize").metrics["documents.train"].value


def test_a_capability_that_a_model_offers_is_tested(project):
    audit = read(project, "decoder", "validate")
    assert not [reason for reason in audit.not_applicable.values() if "next_token_logits" in reason or "kv_cache" in reason]
    assert 0 <= audit.metrics["next_event.accuracy"].value <= 1


def test_the_report_says_not_applicable_and_names_the_capability(project):
    page = project.report_file("autoencoder_report", "md").read_text()
    assert "NOT APPLICABLE" in page and "next\\_token\\_logits" in page.replace("next_token_logits", "next\\_token\\_logits")
    assert values(project, "autoencoder_report", "report")["checks.not_applicable"] > 0


def test_a_killed_autoencoder_resumes_bit_for_bit(project, tmp_path):
    root = write_project(tmp_path / "killed")
    shutil.copytree(project.root / "data", root / "data")
    process, limit = forked.ForkedProcess(run_here, root, "train", "autoencoder"), time.monotonic() + 100
    while not list((root / "models" / ".resume").glob("autoencoder/*/step-*")):
        assert process.poll() is None and time.monotonic() < limit
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not (root / "models" / "autoencoder").exists()
    assert "resuming after step" in run_stage(root, "train", "autoencoder")
    resumed, uninterrupted = (load_file(folder / "models/autoencoder/model.safetensors") for folder in (root, project.root))
    assert resumed.keys() == uninterrupted.keys()
    assert all((resumed[name] == uninterrupted[name]).all() for name in resumed)
