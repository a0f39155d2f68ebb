"""Test the loggers, the progress line, MFU and the memory profile."""

import csv
import importlib.util
import json
import math
import mmap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.model import flops_per_token
from provenlm.training import memory
from provenlm.training.callbacks.history import HistoryRow, StepHistory
from provenlm.training.loggers import mfu, trackers
from provenlm.training.loggers.console import ConsoleLine, format_duration
from provenlm.training.loggers.container import LoggerContainer
from provenlm.training.loggers.csv_logger import CsvLogger
from provenlm.training.loggers.mfu import MfuMeter, measure_peak_flops, steady_state_rows

METER = MfuMeter(lambda length: 100 * length, 1e6)


def row(step: int, loss: float = 2.0, **changes: Any) -> HistoryRow:
    default_row: HistoryRow = {
        "step": step,
        "loss": loss,
        "grad_norm": 0.5,
        "lr_scale": 1.0,
        "num_targets": 60,
        "num_sequences": 8,
        "num_positions": 80,
    }
    return default_row | {"seconds": 0.25, "data_seconds": 0.01, **changes}


def lines(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_tokens_per_second_and_mfu_worked_out_by_hand() -> None:
    """60 targets in 0.25 s; 80 positions in sequences of 10, 1000 FLOP each, of 250,000 FLOP possible in that time."""
    assert METER.compute(row(1)) == {"tokens_per_second": 240.0, "mfu": pytest.approx(0.32)}


def test_the_larger_of_two_measured_peaks_is_used() -> None:
    busy = replace(METER, peak_flops=METER.peak_flops / 4)
    assert busy.compute(row(1))["mfu"] > 1
    assert busy.with_peak(METER.peak_flops) == METER.with_peak(busy.peak_flops) == METER


def test_flops_of_the_200m_shape_follow_palm() -> None:
    """PaLM, appendix B: 6·N + 12·L·d·T; N are the 71,991,296 matrix elements that a token uses (including the head, without norms)."""
    model_config = MoEConfig(512, 8, 8, 2, 8, 2, 2048, 2048, True, 10_000.0, 1e-5, 0.1, "aux_loss", 0.01, 0.0)
    assert flops_per_token(model_config, 32_000, 2048) == 6 * 71_991_296 + 12 * 8 * 512 * 2048


def test_the_measured_peak_is_plausible() -> None:
    before = torch.get_rng_state()
    peak = measure_peak_flops(torch.device("cpu"), "fp32")
    assert 1e8 < peak < 1e14
    assert torch.equal(before, torch.get_rng_state())


def test_the_peak_of_an_emulated_dtype_is_measured_with_small_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A product of width 1024 in emulated fp16 takes seconds."""
    shapes: list[torch.Size] = []
    product = torch.mm
    monkeypatch.setattr(mfu, "is_dtype_emulated", lambda device, precision: True)
    monkeypatch.setattr(torch, "mm", lambda a, b, out: (shapes.append(a.shape), product(a, b, out=out))[1])
    measure_peak_flops(torch.device("cpu"), "fp32")
    assert set(shapes) == {(256, 256)}


def test_steady_state_rows_are_applied_steps_after_the_warm_up() -> None:
    rows = [row(n) for n in range(1, 13)]
    rows[5]["skip_reason"] = "not finite"
    assert [r["step"] for r in steady_state_rows(StepHistory(rows), [0, 7])] == [4, 5, 7, 11, 12]


def test_steady_state_rows_of_a_short_run_are_its_first_steps() -> None:
    assert [r["step"] for r in steady_state_rows(StepHistory([row(1), row(2)]), [0])] == [1, 2]


def test_the_progress_line_shows_loss_speed_mfu_memory_and_time() -> None:
    history = StepHistory([row(n, 2.0 / n, seconds=9.0 if n == 2 else 0.25) for n in range(1, 6)])
    line = ConsoleLine(history, "loss", METER, 505, lambda: 3 * 2**20)
    assert line.render() == "loss 0.400, 240 tokens/s, MFU 32.0%, 3 MiB, 2 min 05 s left"


@pytest.mark.parametrize(("seconds", "text"), [(12.4, "12 s"), (185, "3 min 05 s"), (7620, "2 h 07 min")])
def test_durations_have_the_two_largest_units(seconds: float, text: str) -> None:
    assert format_duration(seconds) == text


def test_the_csv_equals_the_history_while_training_runs(tmp_path: Path) -> None:
    history = StepHistory()
    loggers = LoggerContainer(history, METER, [CsvLogger(tmp_path / "curves" / "r.csv", "loss")])
    for n in range(1, 5):
        val_losses = {"val.loss": 3.0 / n} if n in (1, 3) else {}
        history.rows.append(row(n, 2.0 / n, **val_losses))
        loggers.log_latest()
        assert len(lines(tmp_path / "curves" / "r.csv")) == n
    results = lines(tmp_path / "curves" / "r.csv")
    assert list(results[0]) == ["step", "loss", "val_loss", "tokens_per_second", "mfu", "grad_norm", "lr_scale"]
    assert [(int(each["step"]), float(each["loss"])) for each in results] == history.series("loss")
    assert [float(each["val_loss"]) for each in results] == [3.0, 3.0, 1.0, 1.0]  # the last one measured
    assert {float(each["tokens_per_second"]) for each in results} == {240.0}


def test_the_csv_of_a_resumed_run_has_every_row_once(tmp_path: Path) -> None:
    path = tmp_path / "r.csv"
    path.write_text("step,loss\n1,9\n2,9\n3,9\n4,9\n")  # written by a killed process whose checkpoint was of step 2
    history = StepHistory([row(1), row(2)])
    loggers = LoggerContainer(history, METER, [CsvLogger(path, "loss")])
    history.rows.append(row(3))
    loggers.log_latest()
    loggers.close()
    assert [each["step"] for each in lines(path)] == ["1", "2", "3"]
    assert {each["val_loss"] for each in lines(path)} == {""}


def test_the_csv_drops_steps_that_a_rollback_undid(tmp_path: Path) -> None:
    history = StepHistory()
    loggers = LoggerContainer(history, METER, [CsvLogger(tmp_path / "r.csv", "loss")])
    for n, loss in ((1, 3.0), (2, 2.0), (3, 90.0), (2, 2.1), (3, 1.9)):
        history.rows.append(row(n, loss))
        loggers.log_latest()
    assert [(each["step"], each["loss"]) for each in lines(tmp_path / "r.csv")] == [("1", "3.0"), ("2", "2.1"), ("3", "1.9")]


def test_tensorboard_holds_every_number_of_the_history(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra `loggers` is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    history = StepHistory([row(1, 2.5)])
    loggers = LoggerContainer(history, METER, trackers.build_loggers(["tensorboard"], tmp_path))
    for n in (2, 3):
        history.rows.append(row(n, 2.5 / n, **{"val.loss": 1.5}))
        loggers.log_latest()
    loggers.close()
    read = EventAccumulator(str(tmp_path / "tensorboard"))
    read.Reload()
    assert set(read.Tags()["scalars"]) == (set(history.rows[-1]) - {"step"} | {"tokens_per_second", "mfu", "val/loss"}) - {
        "val.loss"
    }
    assert [(event.step, event.value) for event in read.Scalars("loss")] == [(1, 2.5), (2, 1.25), (3, pytest.approx(2.5 / 3))]
    assert [(event.step, event.value) for event in read.Scalars("val/loss")] == [(2, 1.5), (3, 1.5)]


def test_dvclive_holds_all_rows_and_the_latest_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("dvclive", reason="the extra `loggers` is not installed")
    monkeypatch.chdir(tmp_path)
    history = StepHistory()
    loggers = LoggerContainer(history, METER, trackers.build_loggers(["dvclive"], tmp_path))
    for n in (1, 2):
        history.rows.append(row(n, 2.0 / n, grad_norm=0.5, data_seconds=math.inf, **{"grad_norm.matrix": 0.25}))
        loggers.log_latest()
    loggers.close()
    newest = json.loads((tmp_path / "dvclive" / "metrics.json").read_text())
    assert (newest["step"], newest["loss"]) == (2, 1.0)
    assert (newest["grad_norm"], newest["grad_norm_matrix"]) == (0.5, 0.25)
    assert "data_seconds" not in newest
    with (tmp_path / "dvclive" / "plots" / "metrics" / "loss.tsv").open() as file:
        assert list(csv.reader(file, delimiter="\t")) == [["step", "loss"], ["1", "2.0"], ["2", "1.0"]]
    assert not (tmp_path / "dvc.yaml").exists()


@pytest.mark.parametrize("name", ["tensorboard", "dvclive"])
def test_a_missing_logger_package_is_named_with_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(trackers.PACKAGES, name, "a_package_that_is_not_there")
    with pytest.raises(ProvenlmError, match=rf"train.loggers: {name} is not installed; run `pip install -e '\.\[loggers\]'`"):
        trackers.build_loggers([name], tmp_path)
    assert importlib.util.find_spec("a_package_that_is_not_there") is None


def test_the_memory_profile_falls_after_a_free_and_its_peak_stays() -> None:
    profile = memory.MemoryProfile(torch.device("cpu"))
    profile.mark("before")
    block = mmap.mmap(-1, 64 * 2**20)  # an allocator might reuse pages that earlier tests have freed
    torch.frombuffer(block, dtype=torch.uint8).fill_(1)
    profile.mark("with the block")
    profile.mark("with the block")
    block.close()
    profile.mark("after")
    names, kinds, now, max_bytes = zip(*profile.points, strict=True)
    assert (names, set(kinds)) == (("before", "with the block", "after"), {"cpu"})
    assert now[1] - now[0] > 60 * 2**20
    assert now[2] < now[1]
    slack = 2**20  # the kernel counts pages in batches
    assert max_bytes[2] >= max_bytes[1] - slack and max_bytes[1] >= now[1] - slack
    audit = MetricRecorder()
    profile.record_metrics(audit)
    assert audit.metrics["peak_memory.cpu"].value >= max(max_bytes) - slack
    assert [each[0] for each in audit.tables[0].rows] == list(names)
