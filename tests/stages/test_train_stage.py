"""Test the train stage in processes that are interrupted, killed and restarted."""

import json
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from forked import ForkedProcess, start_stage
from in_process import run_stage
from safetensors.numpy import load_file

from provenlm.core import audit as audits
from provenlm.data import token_dataset
from provenlm.tokenizers.characters import CharacterTokenizer
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.replay import replay_step
from provenlm.training.device import is_dtype_emulated

ADAMW = "{name: adamw, lr: 0.01, betas: [0.9, 0.95], weight_decay: 0.0}"
SAMPLES = "{prompts: [abc, d], max_new_tokens: 3, sampling: {temperature: 1.0, top_k: 0, top_p: 1.0, repetition_penalty: 1.0}}"
PARAMS = f"""
corpora:
  toy: {{domain: strings, scrape: {{}}, filter: {{}}, dedupe: {{}}, tokenize: {{}}}}
recipes:
  tiny:
    corpus: toy
    domain: strings
    base_model: none
    model:
      arch: moe
      hidden_size: 16
      num_hidden_layers: 2
      num_attention_heads: 2
      num_key_value_heads: 1
      num_experts: 4
      num_experts_per_tok: 2
      intermediate_size: 16
      max_position_embeddings: 32
      tie_word_embeddings: true
      rope_theta: 10000.0
      norm_eps: 1e-5
      dropout: 0.1
      load_balancing: aux_loss
      load_balancing_weight: 0.01
      z_loss_weight: 0.001
    train:
      seed: 1
      device: cpu
      threads: 1
      precision: fp32
      data_packing: padded
      seq_len: 12
      global_batch_size: 8
      micro_batch_size: 8
      activation_checkpointing: null
      compile: false
      max_steps: STEPS
      label_smoothing: 0.0
      optimizer:
        embedding: {ADAMW}
        matrix: {{name: muon, lr: 0.02, betas: [0.95], weight_decay: 0.01}}
        default: {ADAMW}
        max_grad_norm: 1.0
      lr_schedule: {{warmup_steps: 2, stable_steps: 0, decay_type: linear, min_lr_factor: 0.0}}
      ema_decay: null
      eval: {{interval: 10, num_sequences: 4}}
      checkpoints: {{save_interval: 5, keep_latest_k: 2, keep_every_n_steps: null, keep_best: false}}
      spike_guard: null
      reduce_lr_on_plateau: null
      early_stopping: null
      seq_len_schedule: null
      sample: null
      distributed: null
      loggers: []
    validate: {{}}
reports: {{}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str, int], Path]:
    """Create projects with params.yaml and the tokens of 30 short documents, a fifth of them in the validation split."""

    def create(name: str, steps: int) -> Path:
        root = tmp_path / name
        folder = root / "data" / "toy" / "tokens"
        folder.mkdir(parents=True)
        (root / "params.yaml").write_text(PARAMS.replace("STEPS", str(steps)))
        generator = np.random.default_rng(1)
        documents = [
            token_dataset.TokenizedDocument(str(i), str(i), 1 + i % 10, generator.integers(4, 20, 1 + i % 10).astype(np.uint32))
            for i in range(30)
        ]
        CharacterTokenizer("abcdefghijklmnopqrs", add_eos=False).save(folder / "tokenizer")
        token_dataset.write_token_dataset(folder, documents, 20, {"pad": 0, "unk": 1, "bos": 2, "eos": 3}, 0.2)
        return root

    return create


def start(root: Path) -> ForkedProcess:
    return start_stage(root, "train", "tiny")


def finish(root: Path) -> tuple[int, str]:
    result = run_stage(root, "train", "tiny")
    return result.returncode, result.stdout + result.stderr


def when_saved(root: Path, process: ForkedProcess) -> None:
    """Wait until the resume folder holds a checkpoint."""
    limit = time.monotonic() + 60
    while not list((root / "models" / ".resume").glob("tiny/*/step-*")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < limit
        time.sleep(0.01)


def weights(root: Path, name: str = "model") -> dict[str, Any]:
    return load_file(root / "models" / "tiny" / f"{name}.safetensors")


def have_same_weights(first_root: dict[str, Any], second_root: dict[str, Any]) -> bool:
    return first_root.keys() == second_root.keys() and all(
        np.array_equal(first_root[name], second_root[name]) for name in first_root
    )


def test_a_run_writes_model_history_and_audit_and_deletes_its_checkpoints(project: Callable[[str, int], Path]) -> None:
    root = project("whole", 20)
    code, output = finish(root)
    assert code == 0, output
    assert sorted(path.name for path in (root / "models" / "tiny").iterdir()) == [
        "history.parquet",
        "manifest.json",
        "model.json",
        "model.safetensors",
        "optimizer.safetensors",
        "rng.safetensors",
        "runs.json",
        "state.json",
        "training_records.parquet",
    ]
    assert not (root / "models" / ".resume" / "tiny").exists()
    metrics = {name: metric.value for name, metric in audits.read_audit(root / "reports/audits/tiny/train.json").metrics.items()}
    # V·d 320; a layer: attention 2·256 + 2·16·8 = 768, experts 4·3·256 = 3072, router 64, norms 32; the last norm 16
    assert metrics["params.total"] == metrics["params.analytic"] == 320 + 2 * (768 + 3072 + 64 + 32) + 16
    assert metrics["params.active"] == metrics["params.total"] - 2 * 2 * 768
    assert metrics["params.updated_fraction"] == 1.0
    assert metrics["steps"] == metrics["steps.planned"] == 20
    positions = pq.read_table(root / "models/tiny/history.parquet")["num_positions"].to_pylist()
    assert 0.5 < metrics["tokens.loss_fraction"] < 0.9
    # 29 documents of 3 to 12 tokens, all but the first of each a target, padded to the longest of 8
    assert metrics["tokens.loss_fraction"] == pytest.approx(metrics["tokens"] / sum(positions))
    documents = len(token_dataset.load_token_dataset(root / "data/toy/tokens").train.record_ids)
    assert metrics["epochs"] == pytest.approx(20 * 8 / documents)
    assert metrics["stop_reason"] == "completed all 20 steps"
    assert metrics["loss.last"] < metrics["loss.first"]
    assert metrics["lr.peak.matrix"] == 0.02
    assert pq.read_metadata(root / "models/tiny/history.parquet").num_rows == 20
    assert len((root / "reports/curves/tiny.csv").read_text().splitlines()) == 1 + 20
    # a token of 12: the head 320, attention 2·768, router 2·64, two experts 2·1536, 6 each; and 12·16·12 in each of 2 layers
    assert metrics["flops_per_token"] == 6 * (320 + 2 * (768 + 64 + 1536)) + 2 * 12 * 16 * 12
    assert 0 < metrics["mfu"] < 1
    assert metrics["peak_memory.cpu"] > 50 * 2**20
    assert checkpoint.load_model(root / "models" / "tiny").metadata.seq_len == 12


def test_the_audit_has_the_standard_checks_and_the_regularization_table(project: Callable[[str, int], Path]) -> None:
    root = project("audited", 4)
    replace_in_file(root, "ema_decay: null", "ema_decay: 0.9")
    code, output = finish(root)
    assert code == 0, output
    audit = audits.read_audit(root / "reports/audits/tiny/train.json")
    assert {name: check.expect for name, check in audit.checks.items()} == {
        "preflight.steps_passed": "== 7",
        "params.updated_fraction": "== 1",
        "params.analytic": "== params.total",
        "steps.skipped": "== 0",
        "mfu": "0..1",
    }
    (table,) = [table for table in audit.tables if table.name == "regularization"]
    rows = {name: (value, effect) for name, value, effect in table.rows}
    assert rows["dropout"] == ("0.1", "in 4 modules of the model")
    assert rows["EMA of the weights"] == ("0.9", "evaluated and published")
    assert rows["early stopping"] == ("off", "stop reason: completed all 4 steps")


def test_a_killed_run_resumes_to_the_weights_of_an_uninterrupted_one(project: Callable[[str, int], Path]) -> None:
    uninterrupted, killed = project("whole", 80), project("killed", 80)
    for root in (uninterrupted, killed):
        replace_in_file(root, "precision: fp32", "precision: fp16")
        replace_in_file(root, "ema_decay: null", "ema_decay: 0.9")
        replace_in_file(root, "micro_batch_size: 8", "micro_batch_size: auto")
        replace_in_file(root, "label_smoothing: 0.0", "label_smoothing: 0.1")
        replace_in_file(root, "sample: null", f"sample: {SAMPLES}")
    assert finish(uninterrupted)[0] == 0
    process = start(killed)
    when_saved(killed, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert not (killed / "models" / "tiny").exists()
    code, output = finish(killed)
    assert code == 0, output
    assert "resuming after step" in output
    assert have_same_weights(weights(uninterrupted), weights(killed))
    assert have_same_weights(
        weights(uninterrupted, "training_weights"), weights(killed, "training_weights")
    )  # the weights behind the moving average
    states = [json.loads((root / "models/tiny/state.json").read_text()) for root in (uninterrupted, killed)]
    assert states[0] == states[1]  # loss scale, micro-batch size, random states
    assert pq.read_metadata(killed / "models/tiny/history.parquet").num_rows == 80
    first_table, second_table = (json.loads((root / "models/tiny/samples.json").read_text()) for root in (uninterrupted, killed))
    assert first_table == second_table
    assert [step for step, prompt, _ in first_table if prompt == "abc"] == list(range(5, 81, 5))
    (table,) = [table for table in audits.read_audit(killed / "reports/audits/tiny/train.json").tables if table.name == "samples"]
    assert table.rows[-1][3:] == first_table[-1][1:]
    assert audits.read_audit(killed / "reports/audits/tiny/train.json").metrics["resumes"].value == 1


@pytest.mark.parametrize(
    ("signum", "by_dvc", "expected", "loggers"),
    [(signal.SIGTERM, False, 0, "[]"), (signal.SIGTERM, True, 143, "[]"), (signal.SIGINT, False, 130, "[dvclive]")],
)
def test_an_interrupted_run_saves_and_the_next_run_resumes(
    project: Callable[[str, int], Path], signum: int, by_dvc: bool, expected: int, loggers: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if by_dvc:
        monkeypatch.setenv("DVC_STAGE", "train@tiny")
    if loggers != "[]":
        pytest.importorskip("dvclive", reason="the extra `loggers` is not installed")
    root = project("interrupted", 400)
    process = start(root)
    when_saved(root, process)
    process.send_signal(signum)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == expected, output
    assert not (root / "models" / "tiny").exists()
    assert not (root / "reports" / "audits").exists()
    (saved,) = [line for line in output.splitlines() if line.startswith("interrupted: saved a checkpoint after step ")]
    step = int(saved.split("step ")[1].split(";")[0])
    replace_in_file(root, "loggers: []", f"loggers: {loggers}")
    process = start(root)
    first = next(line for line in process.stdout if not line.startswith("::"))
    process.kill()
    process.communicate()
    assert first == f"resuming after step {step}\n"


def test_emulated_precision_is_reported(project: Callable[[str, int], Path]) -> None:
    root = project("emulated", 4)
    replace_in_file(root, "precision: fp32", "precision: bf16")
    warning = "train.precision: bf16 is emulated and slow on this processor; fp32 is faster"
    code, output = finish(root)
    assert code == 0, output
    assert (warning in output) == is_dtype_emulated(torch.device("cpu"), "bf16")


def test_checkpoints_of_another_config_are_deleted(project: Callable[[str, int], Path]) -> None:
    root = project("changed", 30)
    stale = root / "models" / ".resume" / "tiny" / "0123456789abcdef" / "step-00000005"
    stale.mkdir(parents=True)
    code, output = finish(root)
    assert code == 0, output
    assert "resuming" not in output
    assert not stale.exists()


def test_a_damaged_newest_checkpoint_is_skipped(project: Callable[[str, int], Path]) -> None:
    uninterrupted, root = project("whole", 30), project("damaged", 30)
    assert finish(uninterrupted)[0] == 0
    process = start(root)
    while len(resumed := sorted((root / "models" / ".resume").glob("tiny/*/step-*"))) < 2:
        assert process.poll() is None
        time.sleep(0.01)
    process.kill()
    process.communicate()
    resumed = sorted(resumed[0].parent.glob("step-*"))
    file = resumed[-1] / "optimizer.safetensors"
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    code, output = finish(root)
    assert code == 0, output
    assert f"{resumed[-1].name} is damaged" in output
    assert have_same_weights(weights(uninterrupted), weights(root))


def replace_in_file(root: Path, old: str, new: str) -> None:
    file = root / "params.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1))


def test_kept_and_best_checkpoints_are_stored_with_the_model(project: Callable[[str, int], Path]) -> None:
    root = project("kept", 30)
    replace_in_file(root, "max_steps: 30", "epochs: 8.2")  # of 29 documents, 8 a step: 29.7 steps
    replace_in_file(
        root,
        "keep_latest_k: 2, keep_every_n_steps: null, keep_best: false",
        "keep_latest_k: 1, keep_every_n_steps: 10, keep_best: true",
    )
    replace_in_file(root, "interval: 10, num_sequences: 4", "interval: 3, num_sequences: 4")
    code, output = finish(root)
    assert code == 0, output
    rows = pq.read_table(root / "models/tiny/history.parquet").to_pylist()[:-1]  # the last state is the model itself
    best = min((row["val.cross_entropy"], row["step"]) for row in rows if row["val.cross_entropy"] is not None)[1]
    planned = audits.read_audit(root / "reports/audits/tiny/train.json").metrics["steps.planned"]
    assert (planned.value, len(rows)) == (30, 29)
    assert "`epochs: 8.2`" in planned.description
    kept_steps = sorted(path.name for path in (root / "models/tiny/checkpoints").iterdir())
    assert kept_steps == [f"step-{step:08}" for step in sorted({10, 20, best})]
    assert checkpoint.load_model(root / "models/tiny/checkpoints" / f"step-{best:08}").metadata.seq_len == 12


def test_a_failed_step_leaves_a_dump_that_replays_it(project: Callable[[str, int], Path]) -> None:
    root = project("diverged", 30)
    replace_in_file(root, "lr: 0.01, betas: [0.9, 0.95]", "lr: 1.0e30, betas: [0.9, 0.95]")
    code, output = finish(root)
    assert code == 0, output
    step = int(next(line for line in output.splitlines() if " stopped: " in line).split()[1])
    (last,) = [row for row in pq.read_table(root / "models/tiny/history.parquet").to_pylist() if row["step"] == step]
    replayed = replay_step(root / "models/tiny/dump")
    assert replayed.metadata["step"] == step
    assert math.isfinite(last["loss"]) == math.isfinite(replayed.terms["next_token"]["loss"])
    assert "not finite" in last["skip_reason"]
    assert not all(math.isfinite(x) for x in (*replayed.terms["next_token"].values(), *replayed.grad_norms.values()))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("arch: moe", "arch: mow", "model must be one of gpt, grid_transformer, moe, music_transformer, sequence_vae, got 'mow'"),
        (
            "num_hidden_layers: 2",
            "num_layers: 2",
            "recipes.tiny.model: unknown key 'num_layers' (did you mean 'num_hidden_layers'?)",
        ),
        ("seq_len: 12", "seq_len: 4", "train.seq_len must be >= 11 with data_packing: padded"),
        ("seq_len: 12", "seq_len: 33", "recipes.tiny.train.seq_len: must be at most the model's 32 positions, got 33"),
        ("device: cpu", "device: cuda", "train.device must be one of "),
    ],
)
def test_an_invalid_recipe_is_a_one_line_error(project: Callable[[str, int], Path], old: str, new: str, message: str) -> None:
    root = project("mistaken", 5)
    file = root / "params.yaml"
    file.write_text(file.read_text().replace(old, new, 1))
    code, output = finish(root)
    assert code == 1
    assert message in output
    assert "Traceback" not in output
