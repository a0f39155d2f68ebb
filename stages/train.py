"""Train a model on the tokens of a corpus.

Write the final checkpoint, the step history and training metrics.

A stopped or killed run leaves checkpoints outside the DVC outs. The next run with the same params, data and code resumes from the
newest intact one and ends with bit-identical weights.
"""

import os
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from provenlm.core import hashing, registry
from provenlm.core.errors import ConfigError
from provenlm.core.interfaces import TokenizeSpec
from provenlm.core.progress import log_line, progress_bar
from provenlm.data import token_dataset
from provenlm.models.common.spec import ResolvedModel, complete_model, resolve_model
from provenlm.tokenizers.registry import load_tokenizer
from provenlm.training import metrics
from provenlm.training.augmentation_metrics import record_augmentation
from provenlm.training.base_model_files import check_base_tokenizer, training_records_to_parquet
from provenlm.training.build_model import find_base_model, init_model
from provenlm.training.checkpoints.checkpoint import ModelMetadata
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DomainBatches, resolve_max_steps
from provenlm.training.device import is_dtype_emulated, resolve_device, retain_freed_memory
from provenlm.training.distributed import launcher
from provenlm.training.distributed.process_group import DistributedContext, init_distributed, is_local_main
from provenlm.training.loggers.instrumentation import build_instrumentation
from provenlm.training.loggers.mfu import MfuMeter, measure_peak_flops
from provenlm.training.memory import MemoryProfile
from provenlm.training.preflight import RunPlan, run_preflight
from provenlm.training.regularization_summary import record_regularization
from provenlm.training.run import open_run, remove_stale_runs, run_worker_rank
from provenlm.training.sample_generator import SampleGenerator, record_samples
from provenlm.training.trainer import Trainer
from stages import runner


class PreparedRun(NamedTuple):
    """Hold a validated recipe.

    `recipe_config` is as written; the duration in `config` is converted to steps.
    """

    recipe_config: TrainConfig
    config: TrainConfig
    resolved_model: ResolvedModel
    domain: str
    tokens_dir: Path
    base_model_dir: Path | None
    tokens: token_dataset.TokenDataset
    domain_batches: DomainBatches | None

    @property
    def tokenizer_sha256(self) -> str:
        """Return the digest of the files of the tokenizer."""
        return hashing.sha256_path(self.tokens_dir / "tokenizer")


def run_stage(context: runner.StageContext) -> None:
    """Train a recipe, in this process or in worker processes.

    Raises ConfigError before training starts.
    """
    prepared = prepare(context)
    distributed = prepared.config.distributed
    if distributed is None or launcher.needs_launch(distributed):
        if is_dtype_emulated(resolve_device(prepared.config.device), precision := prepared.config.precision):
            log_line(f"train.precision: {precision} is emulated and slow on this processor; fp32 is faster")
        run_preflight(preflight_plan(prepared), context.paths.resume_dir(context.subject), context.recorder)
    if distributed is not None and launcher.needs_launch(distributed):
        exit_code = launcher.launch_workers(distributed.world_size, [sys.executable, "-m", "stages.train", context.subject])
        sys.exit(exit_code if exit_code >= 0 else exit_code_for_signal(-exit_code))
    with init_distributed(distributed, resolve_device(prepared.config.device)) as dist:
        run_training(context, prepared, dist)


def prepare(context: runner.StageContext) -> PreparedRun:
    """Parse and check the recipe, before any worker process starts.

    Raises ConfigError or DataError.
    """
    recipe_config = context.parse_section("train", TrainConfig)
    model_location = context.params.location(context.table, context.subject, "model")
    resolved_model = resolve_model(context.entry["model"], model_location)
    context.config_sections |= {
        f"{context.table}.{context.subject}.{name}": context.entry[name] for name in ("model", "corpus", "domain", "base_model")
    }
    max_seq_len = resolved_model.spec.max_seq_len(resolved_model.model_config)
    if recipe_config.seq_len > max_seq_len:
        location = context.params.location(context.table, context.subject, "train")
        raise ConfigError(f"{location}.seq_len: must be at most the model's {max_seq_len} positions, got {recipe_config.seq_len}")
    base_model_dir = find_base_model(context.params, context.subject, resolved_model, context.paths)
    tokens_dir = context.declare_input(context.paths.corpus_dir(context.entry["corpus"], "tokens"))
    if base_model_dir is not None:
        check_base_tokenizer(context.declare_input(base_model_dir), tokens_dir / "tokenizer", context.paths.root)
    if is_local_main():
        token_dataset.verify_digests(tokens_dir)
    tokens = token_dataset.load_token_dataset(tokens_dir)
    resolved_model = complete_model(resolved_model, tokens.token_classes, model_location)
    context.record_settings("model", resolved_model.model_config)
    domain_batches = registry.load_domain(context.entry["domain"], "tokenize", TokenizeSpec)
    config = resolve_max_steps(recipe_config, tokens, domain_batches)
    return PreparedRun(
        recipe_config,
        config,
        resolved_model,
        context.entry["domain"],
        tokens_dir,
        base_model_dir,
        tokens,
        domain_batches,
    )


def preflight_plan(prepared: PreparedRun) -> RunPlan:
    """Build the plan of the pre-flight test.

    The test takes one batch through every part of the training.
    """
    arch, spec, model_config, model_section = prepared.resolved_model
    config, tokens = prepared.config, prepared.tokens
    torch.set_num_threads(config.threads)
    model_metadata = ModelMetadata(arch, model_section, tokens.vocab_size, config.seq_len, prepared.tokenizer_sha256)
    return RunPlan(
        spec,
        model_config,
        model_metadata,
        config,
        tokens,
        load_tokenizer(prepared.tokens_dir / "tokenizer", prepared.domain),
        prepared.base_model_dir,
        prepared.domain_batches,
    )


def run_training(context: runner.StageContext, prepared: PreparedRun, dist: DistributedContext) -> None:
    """Train in this process; every process but the main one exits here."""
    arch, spec, model_config, model_section = prepared.resolved_model
    config, vocab_size = prepared.config, prepared.tokens.vocab_size
    torch.set_num_threads(config.threads)
    retain_freed_memory()
    memory = MemoryProfile(dist.device)
    memory.mark("start")
    model = init_model(spec, model_config, vocab_size, config.seed, prepared.base_model_dir)
    trainer = Trainer.create(
        spec, model_config, prepared.tokens, config, model=model, dist=dist, domain_batches=prepared.domain_batches
    )
    memory.mark("model")
    eval_term = trainer.eval_term
    meter = MfuMeter(
        partial(spec.flops_per_token, model_config, vocab_size),
        dist.all_reduce([measure_peak_flops(dist.device, config.precision)])[0],
    )
    stop_flag = runner.SignalFlag()
    if not dist.is_main:
        worker_steps = trainer.steps(dist.broadcast_checkpoint(None), lambda: dist.broadcast_checkpoint(None))
        finished = run_worker_rank(worker_steps, stop_flag.__bool__, dist)
        sys.exit(0 if finished else exit_code_for_signal(stop_flag.signum))

    model_metadata = ModelMetadata(arch, model_section, vocab_size, config.seq_len, prepared.tokenizer_sha256)
    root = remove_stale_runs(context.paths.resume_dir(context.subject), checkpoint_key(context, config, prepared))
    training_run = open_run(root, model_metadata, config, eval_term, dist)
    curves_csv = context.declare_output(context.paths.curves_csv(context.subject))
    instrumentation = build_instrumentation(
        training_run.history, eval_term, config, meter, memory, curves_csv, context.paths.log_dir(context.subject)
    )
    sample_config = config.sample
    sample_generator = (
        None
        if sample_config is None
        else SampleGenerator(spec, model, load_tokenizer(prepared.tokens_dir / "tokenizer", prepared.domain), sample_config, config)
    )
    steps = trainer.steps(
        dist.broadcast_checkpoint(training_run.resume_checkpoint),
        lambda: dist.broadcast_checkpoint(training_run.checkpoint_manager.rollback_target()),
    )
    with progress_bar(f"train@{context.subject}", "step", config.total_steps) as bar:
        final_step = training_run.run(steps, bar, stop_flag.__bool__, instrumentation.log_step, sample_generator)
    if final_step is None:
        sys.exit(exit_code_for_signal(stop_flag.signum))
    instrumentation.loggers.close()
    training_records = training_records_to_parquet(prepared.tokens.train.record_ids, prepared.base_model_dir)
    state = training_run.finalize(context.declare_output(context.paths.model_dir(context.subject)), final_step, training_records)
    memory.mark("end")

    final_weights = state.state_dicts.get("training_weights", state.state_dicts["model"])
    metrics.record_params(
        context.recorder,
        init_model(spec, model_config, vocab_size, config.seed, prepared.base_model_dir),
        final_weights,
        spec.num_params(model_config, vocab_size),
    )
    metrics.record_eval_weights(context.recorder, config)
    record_augmentation(context.recorder, trainer.dataloader, prepared.tokens.val)
    metrics.record_planned_steps(context.recorder, prepared.recipe_config, config)
    metrics.record_training_metrics(context.recorder, training_run.history, eval_term, config, training_run.start_steps)
    metrics.record_model_metrics(context.recorder, training_run.history, final_step)
    if sample_generator is not None:
        record_samples(context.recorder, training_run.samples, training_run.history, eval_term)
    metrics.record_stop_reason(context.recorder, final_step, len(training_run.start_steps) - 1)
    record_regularization(context.recorder, model, config, training_run.history, final_step.stop_reason or "")
    meter = meter if dist.world_size > 1 else meter.with_peak(measure_peak_flops(dist.device, config.precision))
    replace(instrumentation, mfu_meter=meter).record_metrics(context.recorder, config.seq_len, training_run.start_steps)
    context.provenance |= {"device": dist.device.type, "threads": torch.get_num_threads(), "seed": config.seed}
    context.provenance |= {"precision": config.precision, "processes": dist.world_size}
    shutil.rmtree(
        context.paths.resume_dir(context.subject), ignore_errors=True
    )  # last, so that a run killed before this line can resume


def exit_code_for_signal(signum: int) -> int:
    """Return the exit status of a training that stopped after signal `signum`.

    The training saved a checkpoint before it stopped.

    A `signum` of 0 means that another process of the training received the signal. After SIGTERM the status is 0, as service managers
    expect, except below DVC, which would then look for the outs; otherwise it is 128 + signum.
    """
    signum = signum or signal.SIGTERM
    return 0 if signum == signal.SIGTERM and "DVC_STAGE" not in os.environ else 128 + signum


def checkpoint_key(context: runner.StageContext, config: TrainConfig, prepared: PreparedRun) -> str:
    """Hash everything that determines the weights.

    That is the model, training config, tokens, base model, imported code and the torch version.
    """
    root = context.paths.root.resolve()
    code = hashing.sha256_files(runner.imported_files(root), root)
    data = [hashing.sha256_path(path) for path in (prepared.tokens_dir, prepared.base_model_dir) if path is not None]
    return hashing.sha256_json([context.entry["model"], config.result_fields, *data, code, torch.__version__])


if __name__ == "__main__":
    runner.main("train", "recipes", run_stage, __doc__)
