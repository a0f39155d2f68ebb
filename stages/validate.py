"""Evaluate a trained model with every probe; write metrics and generated samples."""

from dataclasses import replace
from typing import Any

import torch

from provenlm.core import io, registry
from provenlm.core.config import parse_config
from provenlm.core.examples import write_examples
from provenlm.core.interfaces import TokenizeSpec
from provenlm.data import token_dataset
from provenlm.evaluation import assemble, suite
from provenlm.evaluation.probe import ValidateSpec, available_needs
from provenlm.evaluation.probes.generation_quality import GeneratedSample, write_samples
from provenlm.evaluation.runner import run_probes
from provenlm.evaluation.sweep import sweep_probes
from provenlm.evaluation.trained_check import record_trained_check
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import ResolvedModel, capabilities
from provenlm.tokenizers.registry import load_tokenizer
from provenlm.training.build_model import find_base_model
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.checkpoints.checkpoint import load_model
from provenlm.training.config import TrainConfig
from provenlm.training.metrics import train_vs_val_points
from stages import runner


def run_stage(context: runner.StageContext) -> None:
    """Run every probe on a trained model and record evaluation metrics."""
    config = context.parse_section("validate", suite.ValidateConfig)
    train_config = context.parse_section("train", TrainConfig)
    location = context.params.location(context.table, context.subject, "validate")
    domain = registry.load_domain(context.entry["domain"], "evaluate", ValidateSpec)
    domain_config: Any = parse_config(domain.config_type, config.probes, f"{location}.probes")
    context.record_settings("validate", domain_config, "probes")
    torch.set_num_threads(config.threads)

    tokens_dir = context.declare_input(context.paths.corpus_dir(context.entry["corpus"], "tokens"))
    token_dataset.verify_digests(tokens_dir)
    tokens = token_dataset.load_token_dataset(tokens_dir)
    model_dir = context.declare_input(context.paths.model_dir(context.subject))
    trained_model = load_model(model_dir)
    spec, metadata = trained_model.spec, trained_model.metadata
    assemble.require_same_vocab(trained_model, tokens, model_dir.relative_to(context.paths.root).as_posix(), context.subject)
    domain_batches = registry.load_domain(context.entry["domain"], "tokenize", TokenizeSpec)
    tokenizer = load_tokenizer(tokens_dir / "tokenizer", context.entry["domain"])
    history = StepHistory.from_parquet((model_dir / "history.parquet").read_bytes())

    config = suite.scale_to_recipe(config, metadata.config, metadata.seq_len)
    overrides = config.small_model_overrides or {}
    build_small = assemble.make_small_builder(trained_model, overrides, f"{location}.small_model_overrides")
    case = assemble.make_training_case(spec, tokens, train_config, build_small, domain_batches)
    seed = train_config.seed
    resolved_model = ResolvedModel(metadata.arch, spec, trained_model.model_config, metadata.config)
    base_model_dir = find_base_model(context.params, context.subject, resolved_model, context.paths)
    if base_model_dir is not None:
        context.declare_input(base_model_dir)
    eval_context = assemble.make_eval_context(
        trained_model, tokens, tokenizer, case, build_small, seed, domain_batches, base_model_dir
    )
    curve = train_vs_val_points(history, spec.objectives(trained_model.model, IGNORE)[0].eval_term)
    variants = assemble.make_variants(eval_context, trained_model, train_config, history, model_dir / "checkpoints", domain_batches)
    conditions = suite.find_conditions(eval_context, config, case, curve, variants, base_model_dir is not None)
    if conditions["hf_format"] is not True:
        eval_context = replace(eval_context, to_hf=None)
    available = available_needs(capabilities(spec), conditions, domain.conditions(domain_config, eval_context))

    samples: list[GeneratedSample] = []
    count_only_models = assemble.make_count_only_models(spec, config.count_only_models, f"{location}.count_only_models")
    probes = suite.standard_probes(config, spec.eval_metrics, count_only_models, samples, case, curve)
    probes |= domain.probes(domain_config)
    probes |= sweep_probes(config.sweeps, probes, variants, available)
    run_probes(eval_context, probes, context.recorder, available)
    record_trained_check(context.recorder, sum("skip_reason" not in row for row in history.effective_rows()), available)
    with io.atomic_dir(context.declare_output(context.paths.samples_dir(context.subject))) as folder:
        write_samples(folder / context.paths.samples_parquet(context.subject).name, samples)
        write_examples(folder, context.recorder.examples)
    context.provenance |= {"device": eval_context.device.type, "threads": torch.get_num_threads(), "seed": eval_context.seed}


if __name__ == "__main__":
    runner.main("validate", "recipes", run_stage, __doc__)
