"""Test the train stage with two processes, as DVC runs it and under torchrun, with kills and resumes."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from test_train_stage import PARAMS, SAMPLES, replace_in_file, start, weights

from provenlm.core import audit as audits
from provenlm.data import token_dataset
from provenlm.tokenizers.characters import CharacterTokenizer
from provenlm.training.checkpoints import checkpoint

LIMIT = 90.0  # seconds for one step of a test on a busy machine


def finish(root: Path) -> tuple[int, str]:
    """Run the stage in a process of its own, which starts the workers."""
    process = start(root)
    output = process.communicate(timeout=120)[0]
    return process.returncode, output


@pytest.fixture
def project(tmp_path: Path) -> Callable[[str, int, str], Path]:
    """Create projects with the tokens of 30 short documents and micro-batches of two sequences."""

    def create(name: str, steps: int, distributed: str) -> Path:
        root = tmp_path / name
        folder = root / "data" / "toy" / "tokens"
        folder.mkdir(parents=True)
        text = (
            PARAMS.replace("STEPS", str(steps))
            .replace("micro_batch_size: 8", "micro_batch_size: 2")
            .replace("dropout: 0.1", "dropout: 0.0")
        )
        muon = "{name: muon, lr: 0.02, betas: [0.95], weight_decay: 0.01}"  # amplifies the other order of sums for small matrices
        sgd = "{name: sgd, lr: 0.1, betas: [0.9], weight_decay: 0.01}"
        assert muon in text.replace("{{", "{").replace("}}", "}")
        text = text.replace(muon, sgd).replace("distributed: null", f"distributed: {distributed}")
        (root / "params.yaml").write_text(text)
        CharacterTokenizer("abcdefghijklmnopqrs", add_eos=False).save(folder / "tokenizer")
        generator = np.random.default_rng(1)
        documents = [
            token_dataset.TokenizedDocument(str(i), str(i), 1 + i % 10, generator.integers(4, 20, 1 + i % 10).astype(np.uint32))
            for i in range(30)
        ]
        token_dataset.write_token_dataset(folder, documents, 20, {"pad": 0, "unk": 1, "bos": 2, "eos": 3}, 0.2)
        return root

    return create


def set_distributed(root: Path, distributed: str) -> None:
    """Replace the `distributed` section in params.yaml."""
    params = root / "params.yaml"
    lines = [f"      distributed: {distributed}" if "distributed:" in line else line for line in params.read_text().splitlines()]
    params.write_text("\n".join(lines))


def children(pid: int) -> list[int]:
    """List the child processes of `pid`, the oldest first."""
    output = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True).stdout
    return sorted(int(child) for child, parent in map(str.split, output.splitlines()) if int(parent) == pid)


def wait_until_gone(pids: list[int]) -> bool:
    statuses = subprocess.run(["ps", "-eo", "pid=,stat="], capture_output=True, text=True, check=True).stdout
    running = {int(pid) for pid, state in map(str.split, statuses.splitlines()) if not state.startswith("Z")}
    return not running & set(pids)


def until(true: Callable[[], bool]) -> None:
    limit = time.monotonic() + LIMIT
    while not true():
        assert time.monotonic() < limit
        time.sleep(0.05)


@pytest.mark.slow  # test_distributed.py compares the same trainings without the stage
def test_two_processes_write_what_one_writes(project: Callable[[str, int, str], Path]) -> None:
    single_process, two = project("one", 6, "null"), project("two", 6, "{world_size: 2, strategy: ddp}")
    for root in (single_process, two):
        replace_in_file(root, "sample: null", f"sample: {SAMPLES}")
        code, output = finish(root)
        assert code == 0, output
    assert output.count("completed all 6 steps") == 1  # only the main process prints
    assert "W1" not in output and "torch" not in output
    ours, theirs = weights(two), weights(single_process)
    assert ours.keys() == theirs.keys()
    assert all(np.allclose(ours[name], theirs[name], atol=1e-3) for name in ours)
    losses = [pq.read_table(root / "models/tiny/history.parquet").column("loss").to_pylist() for root in (two, single_process)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)
    files = [json.loads((root / "models/tiny/samples.json").read_text()) for root in (two, single_process)]
    assert [each[:2] for each in files[0]] == [each[:2] for each in files[1]]  # step and prompt
    audit = audits.read_audit(two / "reports/audits/tiny/train.json")
    assert audit.metrics["params.updated_fraction"].value == 1.0
    assert dict(audit.provenance)["processes"] == 2
    assert sorted(path.name for path in (two / "models/tiny").iterdir()) == sorted(
        path.name for path in (single_process / "models/tiny").iterdir()
    )


def test_an_error_is_printed_once_before_workers_start(project: Callable[[str, int, str], Path]) -> None:
    root = project("mistaken", 6, "{world_size: 3, strategy: ddp}")
    code, output = finish(root)
    assert code == 1
    assert output.count("micro_batch_size × 3 processes must divide global_batch_size, 8, got 2") == 1
    assert len(output.splitlines()) == 1


@pytest.mark.slow  # starts five groups of processes that import torch
def test_a_killed_process_ends_all_and_the_next_run_resumes(project: Callable[[str, int, str], Path]) -> None:
    uninterrupted, root = project("whole", 400, "null"), project("killed", 400, "{world_size: 2, strategy: fsdp2}")
    assert finish(uninterrupted)[0] == 0
    resume = root / "models" / ".resume" / "tiny"

    def saved() -> set[Path]:
        return {path for path in resume.glob("[0-9a-f]*/step-*") if checkpoint.find_corruption(path) is None}

    def running() -> tuple[subprocess.Popen[str], list[int]]:
        before = saved()
        process = start(root)
        until(lambda: bool(saved() - before) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[0]
        return process, children(process.pid)

    for killed in (0, 1):
        process, workers = running()
        assert len(workers) == 2
        os.kill(workers[killed], signal.SIGKILL)
        output = process.communicate(timeout=LIMIT)[0]
        assert process.returncode == 1
        assert f"train@tiny: process {killed} of 2 was killed by SIGKILL; the next run resumes from the latest checkpoint" in output
        assert "Traceback" not in output
        assert wait_until_gone(workers) and saved()

    process, workers = running()
    process.kill()
    process.wait()
    until(lambda: wait_until_gone(workers))
    process.communicate()

    process, workers = running()
    process.send_signal(signal.SIGTERM)
    output = process.communicate(timeout=LIMIT)[0]
    assert process.returncode == 0, output
    assert output.count("interrupted: saved a checkpoint after step ") == 1
    assert wait_until_gone(workers)

    set_distributed(root, "{world_size: 2, strategy: ddp}")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "stages.train", "tiny"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2]), "OMP_NUM_THREADS": "1"}
    torchrun = subprocess.Popen(command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    before = saved()
    until(lambda: bool(saved() - before) or torchrun.poll() is not None)
    assert torchrun.poll() is None, torchrun.communicate()[0]
    workers = children(torchrun.pid)
    torchrun.kill()
    torchrun.communicate()
    until(lambda: wait_until_gone(workers))

    set_distributed(root, "null")
    code, output = finish(root)
    assert code == 0, output
    assert "the checkpoint was saved with distributed.world_size 2, now it is 1" in output
    assert pq.read_metadata(root / "models/tiny/history.parquet").num_rows == 400
    losses = [pq.read_table(each / "models/tiny/history.parquet").column("loss").to_pylist() for each in (root, uninterrupted)]
    assert losses[0][:50] == pytest.approx(losses[1][:50], rel=1e-3)
    assert audits.read_audit(root / "reports/audits/tiny/train.json").metrics["resumes"].value == 5
