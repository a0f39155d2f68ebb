"""Compare the recipes of music over several seeds, and with one setting changed.

The discriminator is compared with the same VAE without one, and augmentation with none, at equal steps. Models train in processes of one
thread. Needs the tokens of the corpus: `dvc repro tokenize@folk_and_bach`.
"""

import argparse
import copy
import itertools
import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
import yaml
from comparisons import results
from comparisons.results import ResultRow

from provenlm.core import registry
from provenlm.core.audit import MetricRecorder
from provenlm.core.config import parse_config
from provenlm.core.interfaces import TokenizeSpec
from provenlm.data.token_dataset import load_token_dataset
from provenlm.evaluation import assemble
from provenlm.evaluation.probe import ValidateSpec
from provenlm.evaluation.probes.gradient_reach import gradient_reach_probe
from provenlm.evaluation.probes.seed_rerun import retrain_with_seed
from provenlm.models.common.spec import complete_model, resolve_model
from provenlm.tokenizers.registry import load_tokenizer
from provenlm.training.checkpoints.checkpoint import LoadedModel, ModelMetadata
from provenlm.training.config import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
FAMILY = "music_models"
PROBES = ("gradient_reach", "ngram_baseline", "latent_losses", "musical_metrics", "originality", "adversarial")
METRICS = {
    "ngram_baseline.loss": "nats/token",
    "latent_losses.bound": "nats/token",
    "latent_losses.prior_gap": "nats/token",
    "musical_metrics.overlap": "",
    "originality.copied": "fraction",
    "adversarial.accuracy": "fraction",
    "gradient_reach.vae.kl.share": "ratio",
}
QUICK_STEPS = 12


def variants() -> dict[str, dict[str, Any]]:
    """Return the recipes of the family, and those with one setting changed."""
    table = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))["recipes"]
    recipes = {name: table[f"{FAMILY}/{name}"] for name in ("transformer", "vae", "vae_gan")}
    without_discriminator, without_augmentation = copy.deepcopy(recipes["vae_gan"]), copy.deepcopy(recipes["transformer"])
    without_discriminator["model"]["discriminator"] = None
    without_augmentation["train"]["batches"] = {"augmentation": None}
    return {
        "vae_gan": recipes["vae_gan"],
        "vae_gan without discriminator": without_discriminator,
        "vae": recipes["vae"],
        "transformer": recipes["transformer"],
        "transformer without augmentation": without_augmentation,
    }


def shortened(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe that trains for a few steps, half of them against a discriminator if it has one."""
    model, train = recipe["model"], {**recipe["train"], "max_steps": QUICK_STEPS}
    if model.get("discriminator"):
        model = {**model, "discriminator": {"start_step": QUICK_STEPS // 2}}
    return {**recipe, "model": model, "train": train}


def measure_variant(recipe: Mapping[str, Any], seed: int, folder: Path) -> dict[str, float]:
    """Train a recipe with a seed and return what the probes that apply measure."""
    torch.set_num_threads(1)
    tokens = load_token_dataset(folder)
    batches = registry.load_domain("music", "tokenize", TokenizeSpec)
    domain = registry.load_domain("music", "evaluate", ValidateSpec)
    model = complete_model(resolve_model(recipe["model"], "model"), tokens.token_classes, "model")
    train_config: TrainConfig = parse_config(TrainConfig, recipe["train"], "train")
    train_config = replace(train_config, seed=seed, threads=1)
    trained, seconds = retrain_with_seed(model.spec, model.model_config, tokens, train_config, seed, batches)
    metadata = ModelMetadata(model.arch, json.loads(json.dumps(model.section)), tokens.vocab_size, train_config.seq_len)
    loaded = LoadedModel(model.spec, model.model_config, trained, metadata)
    build_small = assemble.make_small_builder(loaded, {}, "small_model_overrides")
    case = assemble.make_training_case(model.spec, tokens, train_config, build_small, batches)
    tokenizer = load_tokenizer(folder / "tokenizer", "music")
    context = assemble.make_eval_context(loaded, tokens, tokenizer, case, build_small, seed, batches)
    config = parse_config(domain.config_type, {}, "probes")
    unmet = domain.conditions(config, context)
    recorder = MetricRecorder()
    for name, probe in {"gradient_reach": gradient_reach_probe(), **domain.probes(config)}.items():
        if name in PROBES and applies(name, context, unmet):
            with recorder.scope(name) as metrics:
                probe.run(context, metrics)
    return {"train_seconds": seconds} | {name: float(recorder.metrics[name].value) for name in METRICS if name in recorder.metrics}


def applies(probe: str, context: Any, unmet: Mapping[str, str | None]) -> bool:
    """Return whether a model can be measured by a probe."""
    if probe == "ngram_baseline":
        return bool(context.token_batches)
    if probe == "latent_losses":
        return context.latent is not None
    return probe != "adversarial" or unmet["discriminator"] is None


def measure(options: argparse.Namespace) -> Iterator[tuple[str, list[ResultRow]]]:
    """Train every variant with every seed; yield its name and results after each training."""
    seeds = range(1, 2 if options.quick else options.seeds + 1)
    with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
        runs = {
            label: [
                pool.submit(measure_variant, shortened(recipe) if options.quick else recipe, seed, options.tokens) for seed in seeds
            ]
            for label, recipe in variants().items()
            if options.only in (label, None)
        }
        for label, futures in runs.items():
            outcomes = []
            for future in futures:
                outcomes.append(future.result())
                yield label, list(summarize(label, outcomes))


def summarize(label: str, outcomes: Sequence[Mapping[str, float]]) -> Iterator[ResultRow]:
    """Yield mean and range over the seeds of what was measured."""
    for metric, unit in {**METRICS, "train_seconds": "s"}.items():
        if values := [outcome[metric] for outcome in outcomes if metric in outcome]:
            name = f"{label}: {metric.replace('_', ' ').replace('.', ', ')}"
            yield ResultRow(f"{name}, mean of {len(values)} seeds", statistics.fmean(values), unit)
            yield ResultRow(f"{name}, smallest", min(values), unit)
            yield ResultRow(f"{name}, largest", max(values), unit)


def main() -> None:
    """Run the comparison and write benchmarks/results/music_recipes.json after each training."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=list(variants()), help="train one of the variants; results of the others are kept")
    parser.add_argument("--tokens", type=Path, default=ROOT / "data/folk_and_bach/tokens", help="folder of a tokenized corpus")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--processes", type=int, default=2)
    results.add_arguments(parser, f"one seed and {QUICK_STEPS} steps")
    options = parser.parse_args()
    rows: dict[str, list[ResultRow]] = {}
    for label, label_rows in measure(options):
        rows[label] = label_rows
        for row in label_rows:
            print(f"{row.name:90}{row.value:12.3f} {row.unit}", flush=True)
        results.save_results("music_recipes", list(itertools.chain(*rows.values())), options)


if __name__ == "__main__":
    main()
