"""Write a corpus, a recipe and a report for sources.

The sources are sampled and training steps are timed on this machine."""

import argparse
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from provenlm.cli.starter import entries, sample, time_budget, trial
from provenlm.cli.starter.sample import CorpusSample
from provenlm.cli.starter.sources import DetectedSource, detect_source
from provenlm.cli.starter.time_budget import BudgetedTraining
from provenlm.core import registry
from provenlm.core.config import Params, load_params, parse_config
from provenlm.core.errors import ConfigError
from provenlm.core.paths import ProjectPaths
from provenlm.models.common.spec import ModelSpec
from provenlm.scaling import model_sizing
from provenlm.scraping.names import check_name

DOMAINS = ("text", "music", "grids")
DEFAULT_THREADS, MAX_THREADS = 2, 8
HEAD_DIM = 32  # of models this small: narrower heads than in `provenlm plan`, so that the narrowest has two
VAL_SECONDS_SHARE = 0.25  # of the training time, for the loss on the validation split
FORWARD_SHARE = 1 / 3  # of the time of a training step
MAX_VAL_FRACTION, MIN_VAL_FRACTION = 0.1, 0.002
DEFAULT_POSITIONS = 1024  # of the dense decoder
GRID_STEP_CELLS = 12_800  # of a training step
FEW_TOKENS = 400_000  # below, a tenth is held out, so that the validation loss has a narrow interval


@dataclass(frozen=True)
class RecipeChoice:
    """Hold the sections of a recipe, the corpus's `tokenize` section and the reasons."""

    model: dict[str, Any]
    train: dict[str, Any]
    validate: dict[str, Any]
    tokenize: dict[str, Any]
    reasons: Sequence[str]

    def recipe(self, corpus: str, domain: str) -> dict[str, Any]:
        """Return the entry of `recipes`."""
        return {
            "corpus": corpus,
            "domain": domain,
            "base_model": "none",
            "model": self.model,
            "train": self.train,
            "validate": self.validate,
        }


@dataclass(frozen=True)
class Proposal:
    """Hold the entries of a project and the reasons for them."""

    corpus: dict[str, Any]
    recipe: dict[str, Any]
    report: dict[str, Any]
    reasons: Sequence[str]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this command."""
    parser.add_argument("name", metavar="NAME", help="name of the report; its corpus is NAME_data, its recipe NAME_model")
    parser.add_argument(
        "sources",
        nargs="+",
        metavar="SOURCE",
        help="folder, file (JSONL, CSV, Parquet, WARC, MIDI, ARC JSON), git repository, web site or feed; several make one corpus",
    )
    parser.add_argument("--minutes", type=float, default=3.0, metavar="M", help="training time on this machine (default: 3)")
    parser.add_argument("--domain", choices=DOMAINS, help="kind of data (default: recognised from the first source)")
    parser.add_argument("--contact", metavar="URL", help="URL or e-mail address that a crawl sends to web sites; needed for a site")
    parser.add_argument("--license", metavar="ID", help="SPDX id of the licence of all sources, such as CC-BY-4.0")
    parser.add_argument("--dry-run", action="store_true", help="print the entries and write nothing")


def main(args: argparse.Namespace) -> int:
    """Print what was found and chosen, write the entries, and return 0.

    Raises ConfigError or DataError, and then writes nothing.
    """
    paths = ProjectPaths(Path.cwd())
    params = load_params(paths.params_yaml)
    names = {"corpora": f"{args.name}_data", "recipes": f"{args.name}_model", "reports": args.name}
    check_names_are_new(params, names)
    check_minutes(args.minutes)
    sources = detect_sources(args.sources, args.domain)
    proposal = propose(sources, names, args.minutes, args.contact, args.license)
    texts = {
        "corpora": entries.format_entry(names["corpora"], proposal.corpus, ""),
        "recipes": entries.format_entry(names["recipes"], proposal.recipe, ""),
        "reports": entries.format_entry(names["reports"], proposal.report, ""),
    }
    for reason in proposal.reasons:
        print(reason)
    print("\n" + "\n".join(f"{table}:\n{text}" for table, text in texts.items()))
    if args.dry_run:
        print("params.yaml was not changed (--dry-run)")
        return 0
    entries.add_entries(paths.params_yaml, texts)
    print(f"Added to params.yaml. Next: provenlm build {args.name}")
    return 0


def check_minutes(minutes: float) -> None:
    """Raise ConfigError if the minutes are out of range."""
    if not 0.1 <= minutes <= 100_000:
        raise ConfigError(f"--minutes: must be 0.1 to 100000, got {minutes:g}")


def check_names_are_new(params: Params, names: Mapping[str, str]) -> None:
    """Raise ConfigError if a name is not allowed or taken."""
    for table, name in names.items():
        check_name(params.file, table, name)
        for taken_table in params.tables:
            if name in params.names(taken_table):
                raise ConfigError(f"{name}: params.yaml has this name in {taken_table}; choose another NAME, or remove the entry")


def detect_sources(arguments: Sequence[str], domain: str | None) -> list[DetectedSource]:
    """Identify all sources. Raises ConfigError if they are of different domains."""
    sources = [detect_source(argument) for argument in arguments]
    if domain is not None:
        sources = [DetectedSource(domain, source.section, source.num_bytes, source.description) for source in sources]
    domains = {source.domain: argument for source, argument in zip(sources, arguments, strict=True)}
    if len(domains) > 1:
        got = ", ".join(f"{argument} is {name}" for name, argument in domains.items())
        raise ConfigError(f"sources must be of one domain, got {got}; --domain decides for all")
    return sources


def propose(
    sources: Sequence[DetectedSource], names: Mapping[str, str], minutes: float, contact: str | None, license_id: str | None
) -> Proposal:
    """Sample the sources, time training steps and choose all settings.

    Raises ConfigError, or DataError if there is too little to train on.
    """
    domain = sources[0].domain
    if license_id is not None:
        sources = [DetectedSource(s.domain, {**s.section, "license": license_id}, s.num_bytes, s.description) for s in sources]
    scrape: dict[str, Any] = {"sources": [dict(source.section) for source in sources]}
    if any(source.section["kind"] in ("site", "feed") for source in sources):
        if contact is None:
            raise ConfigError("--contact: must be a URL or e-mail address for the operators of the web sites, got none")
        scrape["crawl_policy"] = {"user_agent_contact": contact}
    if domain == "grids":
        scrape["reported_splits"] = ["training", "evaluation", "test"]  # the test outputs of all tasks are solved, not trained on
    with sample.temporary_folder() as folder:
        corpus = sample.sample_corpus(sources, scrape, Path(folder))
        choice = choose_recipe(domain, corpus, minutes)
    return Proposal(
        {"domain": domain, "scrape": scrape, "filter": {}, "dedupe": {}, "tokenize": choice.tokenize},
        choice.recipe(names["corpora"], domain),
        {
            "title": names["reports"].replace("_", " "),
            "recipes": [names["recipes"]],
            "corpora": [names["corpora"]],
            "checks": "standard",
        },
        [*describe_corpus(sources, corpus), *choice.reasons],
    )


def choose_recipe(domain: str, corpus: CorpusSample, minutes: float) -> RecipeChoice:
    """Time training steps and choose model, training and validation."""
    threads = min(MAX_THREADS, os.cpu_count() or 1)
    train: dict[str, Any] = {} if threads == DEFAULT_THREADS else {"threads": threads}
    choose = {"text": choose_for_text, "music": choose_for_music, "grids": choose_for_grids}.get(domain)
    if choose is None:
        raise ConfigError(f"domain: must be one of {', '.join(DOMAINS)}, got {domain}")
    choice = choose(corpus, minutes, train)
    return choice if threads == DEFAULT_THREADS else replace(choice, validate={"threads": threads, **choice.validate})


def describe_corpus(sources: Sequence[DetectedSource], corpus: CorpusSample) -> list[str]:
    """Say what the sources hold, and what that rests on."""
    descriptions = "; ".join(source.description for source in sources)
    basis = "read to the end" if corpus.is_complete else "estimated from a sample"
    return [
        f"source: {descriptions}; {corpus.num_records:,} records, {corpus.num_bytes / 1e6:,.1f} MB and {corpus.num_tokens:,.0f} tokens after the "
        f"filter, which keeps {corpus.kept_fraction:.0%} ({basis}; duplicates are not removed yet)"
    ]


def choose_for_text(corpus: CorpusSample, minutes: float, base_train: dict[str, Any]) -> RecipeChoice:
    """Choose a dense decoder by measured speed, tokens at hand and minutes."""
    spec = registry.load_model("gpt", ModelSpec)
    vocab_size = corpus.tokenizer.vocab_size
    seq_len = min(time_budget.SEQ_LEN, max(64, 1 << (corpus.longest_sequence - 1).bit_length()))
    train = {**base_train, "seq_len": seq_len, "global_batch_size": 16 * time_budget.SEQ_LEN // seq_len}
    step_tokens = train["seq_len"] * train["global_batch_size"]

    def section(shape: tuple[int, int]) -> dict[str, Any]:
        hidden_size, num_layers = shape
        heads = max(2, hidden_size // max(HEAD_DIM, min(64, hidden_size // 4)))
        return {
            "arch": "gpt",
            "hidden_size": hidden_size,
            "num_hidden_layers": num_layers,
            "num_attention_heads": heads,
            "num_key_value_heads": max(1, heads // 2),
            "intermediate_size": 64 * round(hidden_size * 8 / 3 / 64),
            **({"max_position_embeddings": seq_len} if seq_len > DEFAULT_POSITIONS else {}),
        }

    def config(shape: tuple[int, int]) -> Any:
        return parse_config(spec.config_type, {key: value for key, value in section(shape).items() if key != "arch"}, "new: model")

    flops = {shape: spec.flops_per_token(config(shape), vocab_size, seq_len) for shape in time_budget.SHAPES}
    params = {shape: spec.num_params(config(shape), vocab_size)["total"] for shape in time_budget.SHAPES}
    unique_tokens = corpus.num_tokens
    measured: dict[tuple[int, int], float] = {}
    shape = time_budget.SHAPES[0]
    while shape not in measured:
        measured[shape] = step_tokens / trial.step_seconds(section(shape), train, "text", corpus.tokens)
        flops_per_second = measured[shape] * flops[shape]
        rates = {candidate: measured.get(candidate, flops_per_second / flops[candidate]) for candidate in time_budget.SHAPES}
        shape = time_budget.choose_shape(60 * minutes * time_budget.STEP_SECONDS_SHARE, unique_tokens, rates, params)
    rate = measured[shape]
    train["global_batch_size"] *= time_budget.choose_batch_size(60 * minutes * rate) // 16
    step_tokens = train["seq_len"] * train["global_batch_size"]
    plan = time_budget.plan_steps(minutes, step_tokens / rate, step_tokens, unique_tokens)
    model = {**section(shape), **({"dropout": plan.dropout} if plan.dropout else {})}
    train["max_steps"] = plan.max_steps
    train["lr_schedule"] = {"warmup_steps": max(5, round(0.03 * plan.max_steps))}
    lrs = model_sizing.scaled_lrs(model["hidden_size"])
    train["optimizer"] = {"embedding": {"lr": lrs["embedding"]}, "default": {"lr": lrs["default"]}}
    train["eval"] = {"interval": max(5, plan.max_steps // 8)}
    validate: dict[str, Any] = {}
    if corpus.prompts:
        train["sample"] = {"prompts": list(corpus.prompts[:2])}
        validate["generation"] = {"prompts": list(corpus.prompts)}
    val_fraction = choose_val_fraction(unique_tokens, rate, plan)
    tokenize = {**corpus.tokenize, "val_fraction": val_fraction}
    reasons = [
        f"vocabulary: {vocab_size:,} tokens of {corpus.num_bytes / corpus.num_tokens:.1f} bytes",
        f"model: {params[shape]:,} parameters, {shape[1]} layers of {shape[0]}; the largest that sees enough text in the time",
        describe_training(plan, minutes, rate, step_tokens),
        f"held out: {val_fraction:.1%} of the records",
        better_advice(plan, minutes),
    ]
    return RecipeChoice(model, train, validate, tokenize, reasons)


def describe_training(plan: BudgetedTraining, minutes: float, rate: float, step_tokens: int) -> str:
    """Say how long the training takes and why."""
    shorter = (
        "" if plan.minutes > 0.9 * minutes else f", shorter than the {minutes:g} minutes asked: more epochs would only memorise"
    )
    return (
        f"training: {plan.max_steps:,} steps of {step_tokens:,} tokens = {plan.epochs:.2g} epochs in {plan.minutes:.1f} minutes at "
        f"{rate:,.0f} tokens/s, measured here{shorter}"
    )


def better_advice(plan: BudgetedTraining, minutes: float, data: str = "text") -> str:
    """Say what would make the model better."""
    if plan.epochs > time_budget.DROPOUT_EPOCHS:
        return f"for a better model: more {data}; what there is is repeated, so that more minutes help little"
    return f"for a better model: more minutes (--minutes {2 * minutes:g} sees twice the {data} and may choose a larger model)"


def choose_val_fraction(num_tokens: float, rate: float, plan: BudgetedTraining) -> float:
    """Return the fraction to hold out.

    Enough for a narrow interval, and not more than can be scored in time.
    """
    affordable = VAL_SECONDS_SHARE * 60 * plan.minutes * rate / FORWARD_SHARE / num_tokens
    wanted = MAX_VAL_FRACTION if num_tokens < FEW_TOKENS else 0.05
    return float(f"{min(wanted, max(affordable, MIN_VAL_FRACTION)):.2g}")


def choose_for_music(corpus: CorpusSample, minutes: float, base_train: dict[str, Any]) -> RecipeChoice:
    """Choose the steps of the music transformer by measured speed."""
    model = {"arch": "music_transformer"}
    plan, rate, step_tokens = _plan_default_model(model, base_train, "music", corpus, minutes)
    train = {**base_train, "max_steps": plan.max_steps, "lr_schedule": {"warmup_steps": max(1, min(10, plan.max_steps // 10))}}
    val_fraction = choose_val_fraction(corpus.num_tokens, rate, plan)
    reasons = [describe_training(plan, minutes, rate, step_tokens), better_advice(plan, minutes, "pieces")]
    return RecipeChoice(model, train, {}, {"val_fraction": val_fraction}, reasons)


def choose_for_grids(corpus: CorpusSample, minutes: float, base_train: dict[str, Any]) -> RecipeChoice:
    """Choose the steps of the grid solver by measured speed.

    Its sequences hold the largest pair.
    """
    model = {"arch": "grid_transformer"}
    seq_len = corpus.longest_sequence
    batch_size = max(4, min(32, GRID_STEP_CELLS // seq_len))
    base_train = {**base_train, "seq_len": seq_len, "global_batch_size": batch_size, "eval": None}
    plan, rate, step_tokens = _plan_default_model(model, base_train, "grids", corpus, minutes, is_augmented=True)
    train = {**base_train, "max_steps": plan.max_steps, "lr_schedule": {"warmup_steps": max(1, min(10, plan.max_steps // 10))}}
    reasons = [
        describe_training(plan, minutes, rate, step_tokens),
        f"for more solved tasks: more minutes (--minutes {2 * minutes:g}), or more tasks to train on",
    ]
    return RecipeChoice(model, train, {"probes": {"test_time_training": {"num_steps": 20}}}, {}, reasons)


def _plan_default_model(
    model: Mapping[str, Any],
    train: Mapping[str, Any],
    domain: str,
    corpus: CorpusSample,
    minutes: float,
    is_augmented: bool = False,
) -> tuple[BudgetedTraining, float, int]:
    """Time steps of a model of the default size.

    Returns the plan, tokens per second and tokens of a step.

    `is_augmented`: every pass shows other variants, so that the number of epochs has no limit.
    """
    seconds = trial.step_seconds(model, train, domain, corpus.tokens)
    defaults = trial.parse_train({**train, "max_steps": trial.MAX_STEPS})
    step_tokens = defaults.seq_len * defaults.global_batch_size
    max_epochs = math.inf if is_augmented else time_budget.MAX_EPOCHS
    plan = time_budget.plan_steps(minutes, seconds, step_tokens, corpus.num_tokens, max_epochs)
    return plan, step_tokens / seconds, step_tokens
