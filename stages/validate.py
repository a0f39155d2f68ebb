"""A trained net and held-out ids in; out, figures that could have been bad, and samples of what the net writes."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from provenlm.core import config, interfaces, registry
from provenlm.core.audit import MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.data import token_dataset
from provenlm.evaluation import suite, sweep
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec
from provenlm.evaluation.probes import compile_parity, generation_quality, resume_bitexact
from provenlm.evaluation.probes.learning_curve import learning_curve_probe
from provenlm.evaluation.probes.parameter_count import CountOnlyModel
from provenlm.evaluation.probes.resume_bitexact import TrainingCase
from provenlm.evaluation.probes.seed_rerun import retrain_with_seed
from provenlm.evaluation.runner import run_probes as ask
from provenlm.evaluation.suite import CountOnlyConfig, ValidateConfig
from provenlm.evaluation.trained_check import record_trained_check as say_if_trained
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import ModelSpec
from provenlm.training.build_model import fresh
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import LoadedModel, load_model
from provenlm.training.config import TrainConfig as Training
from provenlm.training.dataloader import build_dataloader, resolve_max_steps
from provenlm.training.metrics import train_vs_val_points
from stages import runner


def run_stage(context: runner.StageContext) -> None:
    config, location = (
        context.parse_section("validate", ValidateConfig),
        context.params.location(context.table, context.subject, "validate"),
    )
    spec = registry.load_domain(context.entry["domain"], "evaluate", ValidateSpec)
    domain_probes = spec.probes(config.parse_config(spec.config_type, config.probes, f"{location}.probes"))
    torch.set_num_threads(config.threads)
    train_config = context.parse_section("train", Training)
    eval_context, trained_model = load_eval_context(context, config, train_config.seed)
    history = StepHistory.from_parquet((context.paths.model_dir(context.subject) / "history.parquet").read_bytes())
    count_only_models = {
        name: count_only_model(trained_model.spec, count_only, f"{location}.also_count.{name}.net")
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
    ask(eval_context, probes, context.recorder)
    say_if_trained(context.recorder, sum("skipped" not in row for row in history.effective_rows()))
    generation_quality.write_samples(context.declare_output(context.paths.samples_parquet(context.subject)), generated_samples)
    context.provenance |= {"device": eval_context.device.type, "threads": torch.get_num_threads(), "seed": eval_context.seed}


def training_probes(
    eval_context: EvalContext, trained_model: LoadedModel, train_config: Training, history: StepHistory
) -> dict[str, Probe]:
    """Probes of how the net was trained, and of whether that can be stopped and taken up."""
    spec, vocab_size = trained_model.spec, eval_context.tokens.vocab_size
    trial = TrainingCase(
        spec,
        lambda: eval_context.build_small(vocab_size),
        build_dataloader(eval_context.tokens, train_config),
        resolve_max_steps(train_config, eval_context.tokens),
    )

    def resume(eval_context: EvalContext, recorder: MetricRecorder) -> None:
        with TemporaryDirectory() as folder:
            resume_bitexact.record_resume_metrics(recorder, trial, Path(folder) / "checkpoint", checkpoint.load_checkpoint)

    eval_term = spec.objectives(trained_model.model, IGNORE)[0].eval_term
    return {
        "curve": learning_curve_probe(train_vs_val_points(history, eval_term)),
        "resume": resume,
        "equivalence": lambda eval_context, recorder: compile_parity.record_compile_parity(recorder, trial),
    }


def model_variants(
    context: runner.StageContext,
    eval_context: EvalContext,
    trained_model: LoadedModel,
    train_config: Training,
    history: StepHistory,
) -> sweep.ModelVariants:
    """Nets of the same recipe: from other seeds, and at the steps whose checkpoints were kept."""
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
    """The trained net with the tokens and codec of its corpus. ProvenlmError if they do not belong together."""
    tokens_dir = context.declare_input(context.paths.corpus_dir(context.entry["corpus"], "tokens"))
    token_dataset.verify_digests(tokens_dir)
    tokens = token_dataset.load_token_dataset(tokens_dir)
    trained_model = load_model(context.declare_input(context.paths.model_dir(context.subject)))
    spec, model_config, model_metadata = trained_model.spec, trained_model.model_config, trained_model.metadata
    if model_metadata.vocab_size != tokens.vocab_size:
        raise ProvenlmError(
            f"the net was trained on a vocabulary of {model_metadata.vocab_size}, the corpus has {tokens.vocab_size}; "
            f"`dvc repro train@{context.subject}` trains it anew"
        )
    location = f"{context.params.location(context.table, context.subject, 'validate')}.small"
    small_config: Any = config.parse_config(spec.config_type, {**model_metadata.config, **config.small_model_overrides}, location)
    tokenizer = registry.load_domain(context.entry["domain"], "tokenize", interfaces.TokenizeSpec).load(tokens_dir / "codec")
    eval_context = EvalContext(
        model=trained_model.model,
        logits=spec.logits,
        logits_with_cache=spec.logits_with_cache,
        build_untrained=lambda: fresh(spec, model_config, model_metadata.vocab_size, seed),
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
    model_config: Any = config.parse_config(spec.config_type, count_only.model, location)
    return CountOnlyModel(
        lambda: spec.build(model_config, count_only.vocab_size), spec.num_params(model_config, count_only.vocab_size)
    )


if __name__ == "__main__":
    runner.main("validate", "recipes", run_stage, __doc__)
