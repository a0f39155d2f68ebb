"""Evaluate a trained model with every probe; write metrics and generated samples."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from provenlm.core import registry
from provenlm.core.audit import MetricRecorder
from provenlm.core.config import parse_config
from provenlm.core.errors import CheckpointError
from provenlm.data import token_dataset
from provenlm.evaluation import suite, sweep
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec
from provenlm.evaluation.probes import compile_parity, generation_quality, resume_bitexact
from provenlm.evaluation.probes.learning_curve import learning_curve_probe
from provenlm.evaluation.probes.parameter_count import CountOnlyModel
from provenlm.evaluation.probes.resume_bitexact import TrainingCase
from provenlm.evaluation.probes.seed_rerun import retrain_with_seed
from provenlm.evaluation.runner import run_probes
from provenlm.evaluation.suite import CountOnlyConfig, ValidateConfig
from provenlm.evaluation.trained_check import record_trained_check
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import ModelSpec
from provenlm.tokenizers.registry import load_tokenizer
from provenlm.training.build_model import init_model
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import LoadedModel, load_model
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader, resolve_max_steps
from provenlm.training.metrics import train_vs_val_points
from stages import runner


def run_stage(context: runner.StageContext) -> None:
    """Run every probe on a trained model and record evaluation metrics."""
    config = context.parse_section("validate", ValidateConfig)
    location = context.params.location(context.table, context.subject, "validate")
    spec = registry.load_domain(context.entry["domain"], "evaluate", ValidateSpec)
    domain_probes = spec.probes(parse_config(spec.config_type, config.probes, f"{location}.probes"))
    torch.set_num_threads(config.threads)
    train_config = context.parse_section("train", TrainConfig)
    eval_context, trained_model = load_eval_context(context, config, train_config.seed)
    history = StepHistory.from_parquet((context.paths.model_dir(context.subject) / "history.parquet").read_bytes())
    count_only_models = {
        name: count_only_model(trained_model.spec, count_only, f"{location}.count_only_models.{name}.model")
        for name, count_only in config.count_only_models.items()
    }
    generated_samples: list[generation_quality.GeneratedSample] = []
    probes = {
        **suite.standard_probes(config, trained_model.spec.eval_metrics, count_only_models, generated_samples),
        **training_probes(eval_context, trained_model, train_config, history),
        **domain_probes,
    }
    if config.sweeps is not None:
        probes |= sweep.sweep_probes(
            config.sweeps, probes, model_variants(context, eval_context, trained_model, train_config, history)
        )
    run_probes(eval_context, probes, context.recorder)
    record_trained_check(context.recorder, sum("skip_reason" not in row for row in history.effective_rows()))
    generation_quality.write_samples(context.declare_output(context.paths.samples_parquet(context.subject)), generated_samples)
    context.provenance |= {"device": eval_context.device.type, "threads": torch.get_num_threads(), "seed": eval_context.seed}


def training_probes(
    eval_context: EvalContext, trained_model: LoadedModel, train_config: TrainConfig, history: StepHistory
) -> dict[str, Probe]:
    """Build the probes of the training: learning curve, bit-exact resume, and recompute and compile parity."""
    spec, vocab_size = trained_model.spec, eval_context.tokens.vocab_size
    training_case = TrainingCase(
        spec,
        lambda: eval_context.build_small(vocab_size),
        build_dataloader(eval_context.tokens, train_config),
        resolve_max_steps(train_config, eval_context.tokens),
    )

    def resume(eval_context: EvalContext, recorder: MetricRecorder) -> None:
        with TemporaryDirectory() as folder:
            resume_bitexact.record_resume_metrics(recorder, training_case, Path(folder) / "checkpoint", checkpoint.load_checkpoint)

    eval_term = spec.objectives(trained_model.model, IGNORE)[0].eval_term
    return {
        "learning_curve": learning_curve_probe(train_vs_val_points(history, eval_term)),
        "resume": resume,
        "parity": lambda eval_context, recorder: compile_parity.record_compile_parity(recorder, training_case),
    }


def model_variants(
    context: runner.StageContext,
    eval_context: EvalContext,
    trained_model: LoadedModel,
    train_config: TrainConfig,
    history: StepHistory,
) -> sweep.ModelVariants:
    """Provide models of the same recipe: retrained with other seeds, and at earlier checkpoints."""
    checkpoints = [
        (int(path.name.removeprefix("step-")), lambda path=path: replace(eval_context, model=load_model(path).model))
        for path in sorted((context.paths.model_dir(context.subject) / "checkpoints").glob("step-*"))
    ]

    def retrain(seed: int) -> tuple[EvalContext, float]:
        model, seconds = retrain_with_seed(trained_model.spec, trained_model.model_config, eval_context.tokens, train_config, seed)
        return replace(eval_context, model=model), seconds

    recipe_seed_cost = (train_config.seed, sum(seconds for _, seconds in history.series("seconds")))
    return sweep.ModelVariants(recipe_seed_cost, retrain, checkpoints, len(history.effective_rows()))


def load_eval_context(context: runner.StageContext, config: ValidateConfig, seed: int) -> tuple[EvalContext, LoadedModel]:
    """Load a trained model with the tokens and tokenizer of its corpus. Raises CheckpointError if they do not match."""
    tokens_dir = context.declare_input(context.paths.corpus_dir(context.entry["corpus"], "tokens"))
    token_dataset.verify_digests(tokens_dir)
    tokens = token_dataset.load_token_dataset(tokens_dir)
    trained_model = load_model(context.declare_input(context.paths.model_dir(context.subject)))
    spec, model_config, model_metadata = trained_model.spec, trained_model.model_config, trained_model.metadata
    if model_metadata.vocab_size != tokens.vocab_size:
        folder = context.paths.model_dir(context.subject).relative_to(context.paths.root).as_posix()
        raise CheckpointError(
            f"{folder}: must have the vocab_size {tokens.vocab_size} of its corpus, got {model_metadata.vocab_size}; "
            f"`dvc repro train@{context.subject}` retrains it"
        )
    location = f"{context.params.location(context.table, context.subject, 'validate')}.small_model_overrides"
    small_config: Any = parse_config(spec.config_type, {**model_metadata.config, **config.small_model_overrides}, location)
    tokenizer = load_tokenizer(tokens_dir / "tokenizer", context.entry["domain"])
    eval_context = EvalContext(
        model=trained_model.model,
        logits=spec.logits,
        logits_with_cache=spec.logits_with_cache,
        build_untrained=lambda: init_model(spec, model_config, model_metadata.vocab_size, seed),
        build_small=lambda vocab_size: spec.build(small_config, vocab_size),
        losses=spec.losses,
        to_hf=lambda weights: spec.to_hf(model_config, model_metadata.vocab_size, weights),
        analytic_counts=spec.num_params(model_config, model_metadata.vocab_size),
        tokenizer=tokenizer,
        tokens=tokens,
        max_seq_len=model_metadata.seq_len,
        seed=seed,
    )
    return eval_context, trained_model


def count_only_model(spec: ModelSpec, count_only: CountOnlyConfig, location: str) -> CountOnlyModel:
    """Build a model description whose parameters are counted but not trained. Raises ConfigError."""
    model_config: Any = parse_config(spec.config_type, count_only.model, location)
    return CountOnlyModel(
        lambda: spec.build(model_config, count_only.vocab_size), spec.num_params(model_config, count_only.vocab_size)
    )


if __name__ == "__main__":
    runner.main("validate", "recipes", run_stage, __doc__)
