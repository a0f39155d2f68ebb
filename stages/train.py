"""Token ids in, a trained net with all that is needed to go on training it, and the history of every step, out.

A run that is stopped or killed leaves checkpoints outside the outs; the next run with the same parameters, data and code goes on from
the newest whole one and ends with the same weights, bit for bit.
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

from provenlm.core import hashing
from provenlm.core.errors import ProvenlmError
from provenlm.core.progress import log_line, progress_bar
from provenlm.data import token_dataset
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import ResolvedModel, resolve_model
from provenlm.tokenizers import registry
from provenlm.training import metrics
from provenlm.training.build_model import arrange, fresh
from provenlm.training.checkpoints.checkpoint import ModelMetadata
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DataLoader, build_dataloader, resolve_max_steps
from provenlm.training.device import is_dtype_emulated, resolve_device, retain_freed_memory
from provenlm.training.distributed import launcher
from provenlm.training.distributed.fsdp import apply_fsdp, unsharded_objective
from provenlm.training.distributed.process_group import DistributedContext, init_distributed, is_local_main
from provenlm.training.instrumentation import build_instrumentation
from provenlm.training.loop import train_steps
from provenlm.training.memory import MemoryProfile
from provenlm.training.mfu import MfuMeter, measure_peak_flops
from provenlm.training.preflight import RunPlan, run_preflight
from provenlm.training.run import build_callbacks, open_run, remove_stale_runs, run_worker_rank
from provenlm.training.sample_generator import SampleGenerator
from stages import runner


class PreparedRun(NamedTuple):
    """What a recipe asks for, once it is known to be possible. `settings` last for steps, `asked_for` as it stands in the recipe."""

    recipe_config: TrainConfig
    config: TrainConfig
    resolved_model: ResolvedModel
    tokens_dir: Path
    tokens: token_dataset.TokenDataset
    dataloader: DataLoader


def run_stage(context: runner.StageContext) -> None:
    prepared = prepare(context)
    distributed = prepared.config.distributed
    if distributed is None or launcher.needs_launch(distributed):
        if is_dtype_emulated(resolve_device(prepared.config.device), precision := prepared.config.precision):
            log_line(f"train.precision: {precision}; this processor has no such products, so they are slow: fp32 would be right")
        run_preflight(preflight_plan(prepared), context.paths.resume_dir(context.subject), context.recorder)
    if distributed is not None and launcher.needs_launch(distributed):
        exit_code = launcher.launch_workers(distributed.world_size, [sys.executable, "-m", "stages.train", context.subject])
        sys.exit(exit_code if exit_code >= 0 else exit_code_for_signal(-exit_code))
    with init_distributed(distributed, resolve_device(prepared.config.device)) as dist:
        run_training(context, prepared, dist)


def prepare(context: runner.StageContext) -> PreparedRun:
    """ProvenlmError with what is wrong, before any other process begins."""
    recipe_config = context.parse_section("train", TrainConfig)
    resolved_model = resolve_model(context.entry["net"], context.params.location(context.table, context.subject, "net"))
    context.config_sections |= {f"{context.table}.{context.subject}.{name}": context.entry[name] for name in ("net", "corpus")}
    if recipe_config.seq_len > resolved_model.spec.max_seq_len(resolved_model.model_config):
        raise ProvenlmError(
            f"train.length: {recipe_config.seq_len}; this net has a context of {resolved_model.spec.max_seq_len(resolved_model.model_config)} positions"
        )
    tokens_dir = context.declare_input(context.paths.corpus_dir(context.entry["corpus"], "tokens"))
    if is_local_main():
        token_dataset.verify_digests(tokens_dir)
    tokens = token_dataset.load_token_dataset(tokens_dir)
    config = resolve_max_steps(recipe_config, tokens)
    return PreparedRun(recipe_config, config, resolved_model, tokens_dir, tokens, build_dataloader(tokens, config))


def preflight_plan(prepared: PreparedRun) -> RunPlan:
    """What the first batch is taken through before training begins."""
    config, (arch, spec, model_config, model_section), tokens = prepared.config, prepared.resolved_model, prepared.tokens
    torch.set_num_threads(config.threads)
    model_metadata = ModelMetadata(arch, model_section, tokens.vocab_size, config.seq_len)
    return RunPlan(
        spec,
        model_config,
        model_metadata,
        config,
        tokens,
        registry.load_tokenizer(prepared.tokens_dir / "codec"),
        resolve_device(config.device),
    )


def run_training(context: runner.StageContext, prepared: PreparedRun, dist: DistributedContext) -> None:
    """One process's part of the training; all but the first end here."""
    config, (arch, spec, model_config, model_section), vocab_size = (
        prepared.config,
        prepared.resolved_model,
        prepared.tokens.vocab_size,
    )
    torch.set_num_threads(config.threads)
    retain_freed_memory()
    memory = MemoryProfile(dist.device)
    memory.mark("begun")
    model = fresh(spec, model_config, vocab_size, config.seed).to(dist.device)
    arrange(model, config)
    memory.mark("net")
    wrap = apply_fsdp(model, dist.device.type) if dist.is_sharded else unsharded_objective
    objectives = [wrap(objective) for objective in spec.objectives(model, IGNORE)]
    eval_term = objectives[0].eval_term
    meter = MfuMeter(
        partial(spec.flops_per_token, model_config, vocab_size),
        dist.all_reduce([measure_peak_flops(dist.device, config.precision)])[0],
    )
    stop_flag = runner.SignalFlag()
    start_fit = partial(train_steps, model, objectives, prepared.dataloader, build_callbacks(config, eval_term), config, dist=dist)
    if not dist.is_main:
        finished = run_worker_rank(
            start_fit(resume=dist.broadcast_checkpoint(None), recall=lambda: dist.broadcast_checkpoint(None)),
            stop_flag.__bool__,
            dist,
        )
        sys.exit(0 if finished else exit_code_for_signal(stop_flag.signum))

    model_metadata = ModelMetadata(arch, model_section, vocab_size, config.seq_len)
    root = remove_stale_runs(context.paths.resume_dir(context.subject), checkpoint_key(context, config, prepared.tokens_dir))
    training_run = open_run(root, model_metadata, config, eval_term, dist)
    curves_csv = context.declare_output(context.paths.curves_csv(context.subject))
    instrumentation = build_instrumentation(
        training_run.history, eval_term, config, meter, memory, curves_csv, context.paths.log_dir(context.subject)
    )
    sample_config = config.sample
    sample_generator = (
        None
        if sample_config is None
        else SampleGenerator(spec, model, registry.load_tokenizer(prepared.tokens_dir / "codec"), sample_config, config)
    )
    steps = start_fit(
        resume=dist.broadcast_checkpoint(training_run.resume_checkpoint),
        recall=lambda: dist.broadcast_checkpoint(training_run.checkpoint_manager.rollback_target()),
    )
    with progress_bar(f"train@{context.subject}", "step", config.total_steps) as bar:
        final_step = training_run.run(steps, bar, stop_flag.__bool__, instrumentation.log_step, sample_generator)
    if final_step is None:
        sys.exit(exit_code_for_signal(stop_flag.signum))
    instrumentation.loggers.close()
    state = training_run.finalize(context.declare_output(context.paths.model_dir(context.subject)), final_step)
    memory.mark("delivered")

    final_weights = state.state_dicts.get("trained", state.state_dicts["model"])
    metrics.record_params(
        context.recorder,
        fresh(spec, model_config, vocab_size, config.seed),
        final_weights,
        spec.num_params(model_config, vocab_size),
    )
    metrics.record_eval_weights(context.recorder, config)
    metrics.record_planned_steps(context.recorder, prepared.recipe_config, config)
    metrics.record_training_metrics(context.recorder, training_run.history, eval_term, config, training_run.start_steps)
    metrics.record_model_metrics(context.recorder, training_run.history, final_step)
    if sample_generator is not None:
        sample_generator.record_samples(context.recorder, training_run.samples, training_run.history, eval_term)
    metrics.record_stop_reason(context.recorder, final_step, len(training_run.start_steps) - 1)
    meter = meter if dist.world_size > 1 else meter.with_peak(measure_peak_flops(dist.device, config.precision))
    replace(instrumentation, mfu_meter=meter).record_metrics(context.recorder, config.seq_len, training_run.start_steps)
    context.provenance |= {"device": dist.device.type, "threads": torch.get_num_threads(), "seed": config.seed}
    context.provenance |= {"precision": config.precision, "processes": dist.world_size}
    shutil.rmtree(context.paths.resume_dir(context.subject), ignore_errors=True)  # last: until here a kill costs little


def exit_code_for_signal(signum: int) -> int:
    """The exit status of a training that was asked to end by signal `number` (0: another process of it was) and has saved.

    It is 0 after SIGTERM, as whoever manages services expects of a program that did what it was told. DVC would look for the outs of
    a stage that ends so; to DVC it ends as if by the signal, and so does everything that a person interrupts.
    """
    signum = signum or signal.SIGTERM
    return 0 if signum == signal.SIGTERM and "DVC_STAGE" not in os.environ else 128 + signum


def checkpoint_key(context: runner.StageContext, config: TrainConfig, tokens_dir: Path) -> str:
    """A digest of all that decides the weights: settings, tokens, our code that is loaded, and torch itself."""
    root = context.paths.root.resolve()
    code = hashing.sha256_files(runner.imported_files(root), root)
    return hashing.sha256_json(
        [context.entry["net"], config.result_fields, hashing.sha256_path(tokens_dir), code, torch.__version__]
    )


if __name__ == "__main__":
    runner.main("train", "recipes", run_stage, __doc__)
