"""Measure the music transformer: speed, kinds of attention, and a curriculum.

speed: forward passes of 17.6 million parameters, two sequences, at 512, 1024 and 2048 tokens, beside the report's own model and beside
the matrix products alone, which bound every implementation. attention: plain and hierarchical attention trained on equal tokens, in
validation loss and speed. curriculum: sequences of 512, 1024, then 2048 tokens beside 2048 tokens throughout, with the same tokens in every
step. The last two need the tokens of a corpus: `dvc repro tokenize@folk_and_bach`.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from comparisons import results, unmasked_transformer
from comparisons.results import ResultRow
from comparisons.unmasked_transformer import UnmaskedTransformer
from torch import Tensor, nn

from provenlm.core import registry
from provenlm.core.interfaces import TokenizeSpec
from provenlm.data.token_dataset import TokenDataset, load_token_dataset
from provenlm.evaluation.probes.peak_memory import peak_bytes
from provenlm.models.common.spec import ModelSpec
from provenlm.models.music_transformer.config import MusicTransformerConfig, with_token_classes
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import LRScheduleConfig, SeqLenScheduleConfig, TrainEvalConfig
from provenlm.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("speed", "attention", "curriculum")
SEQ_LENS = (512, 1024, 2048)
REPORTED_RATES = {512: 5052, 1024: 5240, 2048: 5296}  # tokens/s of the seed report, on a machine that it does not name
SEED_SETTING = MusicTransformerConfig(
    attention="hierarchical",
    summaries="stride",
    summary_stride=unmasked_transformer.STRIDE,
    local_window=unmasked_transformer.WINDOW,
    variant="gpt2",
    hidden_size=unmasked_transformer.HIDDEN,
    num_hidden_layers=unmasked_transformer.LAYERS,
    num_attention_heads=unmasked_transformer.HEADS,
    intermediate_size=unmasked_transformer.FFN,
    tie_word_embeddings=False,
    head_bias=True,
)
BATCH_SIZE = 2
STEP_TOKENS = 8192  # of a training step, at every sequence length


@dataclass(frozen=True)
class ForwardTimes:
    """Hold the seconds of forward passes and the peak bytes of one."""

    seconds: list[float]
    peak_bytes: int

    def rows(self, name: str, num_tokens: int, baseline: "ForwardTimes") -> list[ResultRow]:
        """Return median and spread of the rate, and the peak memory.

        Ratios are to `baseline`, pass by pass.
        """
        ratio = statistics.median(ours / other for ours, other in zip(self.seconds, baseline.seconds, strict=True))
        deciles = statistics.quantiles(self.seconds, n=10, method="inclusive")
        return [
            ResultRow(name, num_tokens / statistics.median(self.seconds), "tokens/s", 1 / ratio),
            ResultRow(f"{name}, slowest tenth", num_tokens / deciles[-1], "tokens/s"),
            ResultRow(f"{name}, fastest tenth", num_tokens / deciles[0], "tokens/s"),
            ResultRow(f"{name}, peak memory beyond weights", self.peak_bytes / 2**20, "MiB"),
        ]


def measure_speed(seq_lens: Sequence[int], rounds: int) -> Iterator[list[ResultRow]]:
    """Time forward passes in turns.

    Yield, for each length, their rates and peak memory, and the rate of matrix products that the reported speed takes.
    """
    passes = build_passes()
    for seq_len in seq_lens:
        tokens_BT = torch.randint(
            unmasked_transformer.VOCAB_SIZE, (BATCH_SIZE, seq_len), generator=torch.Generator().manual_seed(1)
        )
        times = time_in_turns({label: partial(forward, tokens_BT) for label, forward in passes.items()}, rounds)
        baseline = next(iter(times.values()))
        rows: list[ResultRow] = []
        for label, forward_times in times.items():
            rows += forward_times.rows(f"forward, {seq_len} tokens: {label}", tokens_BT.numel(), baseline)
        products = times["matrix products alone"]
        flops = 2 * BATCH_SIZE * seq_len * num_product_elements()
        rate = flops / statistics.median(products.seconds) / 1e9
        rows.append(ResultRow(f"matrix products of {seq_len} tokens", rate, "GFLOP/s"))
        needed = 2 * REPORTED_RATES[seq_len] * num_product_elements() * 2 / 1e9
        name = f"matrix products for twice the reported {REPORTED_RATES[seq_len]} tokens/s"
        yield [*rows, ResultRow(name, needed, "GFLOP/s", needed / rate)]


def build_passes() -> dict[str, Callable[[Tensor], object]]:
    """Return the forward passes under comparison, the report's own first.

    All models have random weights. Raises RuntimeError unless the models have the parameters of the report.
    """
    torch.manual_seed(1)
    spec = registry.load_model("music_transformer", ModelSpec)
    reported, hierarchical, plain = (
        UnmaskedTransformer().train(),
        spec.build(SEED_SETTING, unmasked_transformer.VOCAB_SIZE).eval(),
        spec.build(replace(SEED_SETTING, attention="plain"), unmasked_transformer.VOCAB_SIZE).eval(),
    )
    for model in (reported, hierarchical):
        if (num_params := sum(parameter.numel() for parameter in model.parameters())) != unmasked_transformer.NUM_PARAMS:
            raise RuntimeError(f"the model must have {unmasked_transformer.NUM_PARAMS} parameters, got {num_params}")
    return {
        "the report's model, not causal, in training mode": reported,
        "ours, hierarchical": torch.inference_mode()(hierarchical),
        "ours, plain": torch.inference_mode()(plain),
        "matrix products alone": torch.inference_mode()(partial(multiply_matrices, hierarchical)),
    }


def multiply_matrices(model: nn.Module, tokens_BT: Tensor) -> None:
    """Compute the products of all positions with every matrix, and nothing else."""
    for name, matrix in product_matrices(model):
        states = torch.empty(-(-tokens_BT.numel() // rows_per_product(name)), matrix.shape[1])
        torch.mm(states, matrix.T)


def product_matrices(model: nn.Module) -> list[tuple[str, Tensor]]:
    """List the matrices of the hierarchical model that multiply hidden states."""
    return [(name, parameter) for name, parameter in model.named_parameters() if parameter.ndim == 2 and "embed" not in name]


def rows_per_product(name: str) -> int:
    """Return for how many tokens a matrix is used once.

    Keys and values of summaries are computed once for each segment.
    """
    return SEED_SETTING.summary_stride if name.endswith(("global_k_proj.weight", "global_v_proj.weight")) else 1


def num_product_elements() -> int:
    """Count the matrix elements that multiply each token of the hierarchical model."""
    with torch.device("meta"):
        model = registry.load_model("music_transformer", ModelSpec).build(SEED_SETTING, unmasked_transformer.VOCAB_SIZE)
    return sum(matrix.numel() // rows_per_product(name) for name, matrix in product_matrices(model))


def time_in_turns(functions: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, ForwardTimes]:
    """Call each function once a round, so that load affects all alike.

    The first round is for warming up; peak memory is measured afterwards.
    """
    seconds: dict[str, list[float]] = {label: [] for label in functions}
    for number in range(rounds + 1):
        for label, function in functions.items():
            start = time.perf_counter()
            function()
            if number:
                seconds[label].append(time.perf_counter() - start)
    peaks = peak_bytes(list(functions.values()), torch.device("cpu"))
    return {label: ForwardTimes(seconds[label], peak) for label, peak in zip(functions, peaks, strict=True)}


@dataclass(frozen=True)
class TrainingBudget:
    """Hold steps and seeds of each variant, and at most how many tokens validate it."""

    num_steps: int
    seeds: range
    threads: int
    val_tokens: int


@dataclass(frozen=True)
class TrainingRun:
    """Hold the validation loss of a trained model and the median rate of its steps."""

    val_loss: float
    tokens_per_second: float


def train_once(model_config: MusicTransformerConfig, dataset: TokenDataset, train_config: TrainConfig) -> TrainingRun:
    """Train a model; validation windows have the last sequence length."""
    spec = registry.load_model("music_transformer", ModelSpec)
    model_config = with_token_classes(model_config, {name: ids.tolist() for name, ids in dataset.token_classes.items()})
    batches = registry.load_domain("music", "tokenize", TokenizeSpec)
    trainer = Trainer.create(spec, model_config, dataset, train_config, domain_batches=batches)
    steps = list(trainer.steps())
    assert steps[-1].val_losses is not None
    return TrainingRun(
        steps[-1].val_losses[trainer.eval_term], statistics.median(step.num_positions / step.seconds for step in steps[1:])
    )


def make_train_config(seq_len: int, budget: TrainingBudget, seed: int, has_curriculum: bool = False) -> TrainConfig:
    """Return a training with STEP_TOKENS tokens a step.

    A curriculum spends a third of the steps at each length.
    """
    schedule = SeqLenScheduleConfig(seq_len // 4, round(budget.num_steps * 2 / 3), "exponential") if has_curriculum else None
    return TrainConfig(
        seed=seed,
        threads=budget.threads,
        seq_len=seq_len,
        global_batch_size=STEP_TOKENS // seq_len,
        max_steps=budget.num_steps,
        lr_schedule=LRScheduleConfig(warmup_steps=min(10, budget.num_steps - 1)),
        seq_len_schedule=schedule,
        eval=TrainEvalConfig(budget.num_steps, max(1, budget.val_tokens // seq_len)),
    )


def compare_runs(comparison: str, runs: Mapping[str, Callable[[int], TrainingRun]], seeds: range) -> list[ResultRow]:
    """Train the variants in turns, once with every seed.

    Return mean and range of the loss, and the median rate. Ratios are to the first variant.
    """
    outcomes: dict[str, list[TrainingRun]] = {label: [] for label in runs}
    for seed in seeds:
        for label, run in runs.items():
            outcomes[label].append(run(seed))
    means = {label: statistics.fmean(outcome.val_loss for outcome in of_label) for label, of_label in outcomes.items()}
    rates = {label: statistics.median(outcome.tokens_per_second for outcome in of_label) for label, of_label in outcomes.items()}
    baseline, rows = next(iter(runs)), []
    for label in runs:
        losses, name = [outcome.val_loss for outcome in outcomes[label]], f"{comparison}: {label}"
        loss_name = f"{name}, validation loss, mean of {len(seeds)} seeds"
        rows.append(ResultRow(loss_name, means[label], "nats/token", means[label] / means[baseline]))
        rows.append(ResultRow(f"{name}, range of the seeds", max(losses) - min(losses), "nats/token"))
        rows.append(ResultRow(f"{name}, training speed", rates[label], "tokens/s", rates[label] / rates[baseline]))
    return rows


def measure_attention(dataset: TokenDataset, seq_lens: Sequence[int], budget: TrainingBudget) -> Iterator[list[ResultRow]]:
    """Compare plain and hierarchical attention at each sequence length."""

    def run(config: MusicTransformerConfig, seq_len: int, seed: int) -> TrainingRun:
        return train_once(config, dataset, make_train_config(seq_len, budget, seed))

    variants = {
        "plain": MusicTransformerConfig(),
        "hierarchical, summaries of bars": MusicTransformerConfig(attention="hierarchical"),
        "hierarchical, summaries of 64 tokens": MusicTransformerConfig(attention="hierarchical", summaries="stride"),
    }
    for seq_len in seq_lens:
        runs = {label: partial(run, config, seq_len) for label, config in variants.items()}
        yield compare_runs(f"attention, {seq_len} tokens", runs, budget.seeds)


def measure_curriculum(dataset: TokenDataset, budget: TrainingBudget) -> Iterator[list[ResultRow]]:
    """Compare growing sequences with long ones, on the same tokens in the same order."""

    def run(has_curriculum: bool, seed: int) -> TrainingRun:
        config = make_train_config(SEQ_LENS[-1], budget, seed, has_curriculum)
        return train_once(MusicTransformerConfig(), dataset, config)

    runs = {"2048 tokens throughout": partial(run, False), "512, 1024, then 2048 tokens": partial(run, True)}
    yield compare_runs("curriculum", runs, budget.seeds)


def main() -> None:
    """Run the selected parts and write benchmarks/results/music_transformer.json after each comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], metavar="PART", help=f"{', '.join(PARTS)}; default: all")
    parser.add_argument("--tokens", type=Path, default=ROOT / "data/folk_and_bach/tokens", help="folder of a tokenized corpus")
    parser.add_argument("--seq-lens", type=int, nargs="+", choices=SEQ_LENS, default=SEQ_LENS, help="of the first two parts")
    parser.add_argument("--steps", type=int, default=150, help=f"training steps of {STEP_TOKENS} tokens")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    results.add_arguments(parser, "5 rounds instead of 25; 6 training steps, one seed, part of the validation split")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    budget = TrainingBudget(options.steps, range(1, options.seeds + 1), options.threads, 10**9)
    if options.quick:
        budget = replace(budget, num_steps=6, seeds=range(1, 2), val_tokens=STEP_TOKENS)
    rows: list[ResultRow] = []
    for part in options.parts or PARTS:
        for comparison in measure_part(part, options, budget):
            for row in comparison:
                ratio = "" if row.ratio is None else f"{row.ratio:9.3f} ×"
                print(f"{row.name:90}{row.value:12.3f} {row.unit:12}{ratio}", flush=True)
            rows += comparison
            results.save_results("music_transformer", rows, options)


def measure_part(part: str, options: Any, budget: TrainingBudget) -> Iterator[list[ResultRow]]:
    """Yield the rows of each comparison of a part."""
    if part == "speed":
        return measure_speed(options.seq_lens, 5 if options.quick else 25)
    dataset = load_token_dataset(options.tokens)
    return measure_attention(dataset, options.seq_lens, budget) if part == "attention" else measure_curriculum(dataset, budget)


if __name__ == "__main__":
    main()
