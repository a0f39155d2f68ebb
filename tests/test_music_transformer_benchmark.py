"""Test the benchmark of the music transformer: its rows compare the models and trainings that they name."""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from provenlm.core.errors import ConfigError
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.music_transformer.config import MusicTransformerConfig
from provenlm.training.seq_len_schedule import seq_len_at_step

pytest.importorskip("symusic")
ROOT = Path(__file__).resolve().parents[1]
TINY = MusicTransformerConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, local_window=8, summary_stride=4
)


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    torch.set_num_threads(1)
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import music_transformer  # benchmarks/music_transformer.py

    return music_transformer


@pytest.fixture
def dataset() -> TokenDataset:
    """Return random pieces of 16 ids; 3 begins a bar."""
    ids = np.random.default_rng(1).integers(3, 16, 40 * 33, dtype=np.uint16)
    split = DatasetSplit(ids, np.arange(41, dtype=np.int64) * 33, [str(n) for n in range(40)], np.full(40, 33))
    return TokenDataset(split, split, 16, {"pad": 0}, {"Bar": np.array([3]), "Pitch": np.arange(4, 16)})


def test_the_model_of_the_report_has_its_size_and_sees_later_tokens(benchmark):
    model = benchmark.UnmaskedTransformer()
    assert sum(parameter.numel() for parameter in model.parameters()) == 17_608_454
    assert benchmark.SEED_SETTING.hidden_size == 512
    tokens = torch.randint(774, (1, 12), generator=torch.Generator().manual_seed(1))
    other = tokens.clone()
    other[0, 11] += 1
    with torch.inference_mode():
        change = (model.eval()(tokens) - model(other)).abs().amax((0, 2))
    assert change[:11].min() > 1e-4


def test_the_matrix_products_are_those_of_the_closed_form(benchmark):
    """A token meets every matrix once, but keys and values of summaries once in 64 tokens."""
    matrices = 774 * 512 + 4 * (6 * 512**2 + 2 * 512 * 2048 + 2 * 512**2 // 64)
    assert benchmark.num_product_elements() == matrices


def test_passes_are_timed_in_turns_with_their_memory(benchmark):
    order: list[str] = []
    functions = {name: lambda name=name: (order.append(name), torch.ones(1 << 20).sum()) for name in "ab"}
    times = benchmark.time_in_turns(functions, 3)
    assert order[:8] == list("abababab")
    assert len(times["a"].seconds) == 3 and 4 << 20 <= times["a"].peak_bytes < 5 << 20


def test_the_curriculum_spends_a_third_of_the_steps_at_each_length(benchmark):
    budget = benchmark.TrainingBudget(12, range(1, 2), 1, 8192)
    config = benchmark.make_train_config(2048, budget, 1, has_curriculum=True)
    lengths = [seq_len_at_step(config.seq_len_schedule, step, 2048) for step in range(12)]
    assert lengths == [512] * 4 + [1024] * 4 + [2048] * 4
    control = benchmark.make_train_config(2048, budget, 1)
    assert replace(config, seq_len_schedule=None) == control and control.global_batch_size * 2048 == 8192


@pytest.mark.parametrize(
    "changes", [{}, {"attention": "hierarchical"}, {"attention": "hierarchical", "summaries": "stride"}], ids=str
)
def test_every_attention_is_trained_on_the_tokens(benchmark, dataset, monkeypatch, changes):
    monkeypatch.setattr(benchmark, "STEP_TOKENS", 128)
    config = benchmark.make_train_config(32, benchmark.TrainingBudget(4, range(1, 2), 1, 64), 1, has_curriculum=True)
    run = benchmark.train_once(replace(TINY, **changes), dataset, config)
    assert 1.5 < run.val_loss < 4 and run.tokens_per_second > 0


def test_summaries_of_bars_need_tokens_with_bars(benchmark, dataset):
    config = benchmark.make_train_config(2048, benchmark.TrainingBudget(4, range(1, 2), 1, 64), 1)
    with pytest.raises(ConfigError, match="summaries: must be stride for tokens without the class Bar"):
        benchmark.train_once(
            replace(TINY, attention="hierarchical"), replace(dataset, token_classes={"Pitch": np.arange(4, 16)}), config
        )


def test_rows_compare_means_with_the_first_variant(benchmark):
    losses = {"a": {1: 2.0, 2: 1.0}, "b": {1: 3.0, 2: 3.0}}
    runs = {name: lambda seed, name=name: benchmark.TrainingRun(losses[name][seed], 10.0 * seed) for name in losses}
    rows = {row.name: (row.value, row.ratio) for row in benchmark.compare_runs("x", runs, range(1, 3))}
    assert rows["x: a, validation loss, mean of 2 seeds"] == (1.5, 1.0) and rows["x: a, range of the seeds"] == (1.0, None)
    assert rows["x: b, validation loss, mean of 2 seeds"] == (3.0, 2.0) and rows["x: b, training speed"] == (15.0, 1.0)


@pytest.mark.parametrize("options", [{"parts": ["attention"]}, {"only": "attention"}], ids=str)
def test_results_of_comparisons_that_did_not_run_are_kept(benchmark, tmp_path, options):
    """Each save replaces the rows of its own comparisons; a run of everything replaces the file."""
    row = benchmark.ResultRow

    def save(rows: list[Any], **changes: Any) -> dict[str, float]:
        output = tmp_path / "results.json"
        benchmark.results.save_results("x", rows, argparse.Namespace(output=output, quick=False, **changes))
        return {item["name"]: item["value"] for item in json.loads(output.read_text())["rows"]}

    save([row("speed: a", 1.0, ""), row("attention, 512 tokens: a", 1.0, "")])
    kept = save([row("attention, 512 tokens: a", 2.0, "")], **options)
    assert kept == {"speed: a": 1.0, "attention, 512 tokens: a": 2.0}
    assert save([row("curriculum: a", 3.0, "")]) == {"curriculum: a": 3.0}


def test_the_recorded_command_has_no_paths(benchmark, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["x.py", "speed", "--tokens", "/a b/tokens", "--steps", "5", "--output", "y.json"])
    output = tmp_path / "results.json"
    benchmark.results.save_results("x", [benchmark.ResultRow("a", 1.0, "")], argparse.Namespace(output=output, quick=False))
    assert json.loads(output.read_text())["command"] == "python benchmarks/x.py speed --steps 5"
