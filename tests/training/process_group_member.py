"""Run the same trainings in one process and in several, which have the environment of torchrun.

Every process writes what it recorded to `<rank>.json`; the main one also writes the final weights of every training.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.layers.moe_router import Router, Routing
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.gpt import config as gpt_config
from provenlm.models.gpt import spec as gpt
from provenlm.models.moe import config as moe_config
from provenlm.models.moe import spec as moe
from provenlm.training import rng_state
from provenlm.training.build_model import apply_compile_and_ac
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.checkpoints.manager import cpu_copy
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import (
    CheckpointConfig,
    DistributedConfig,
    LRScheduleConfig,
    OptimizerConfig,
    ParamGroupConfig,
    SpikeGuardConfig,
    TrainEvalConfig,
)
from provenlm.training.dataloader import build_dataloader
from provenlm.training.distributed.fsdp import apply_fsdp
from provenlm.training.distributed.process_group import SINGLE_PROCESS, DistributedContext, init_distributed
from provenlm.training.loop import train_steps
from provenlm.training.trainer import build_callbacks

ADAMW = ParamGroupConfig("adamw", 0.01, (0.9, 0.95), 0.01)
MUON = ParamGroupConfig("muon", 0.02, (0.95,), 0.01)
SGD = ParamGroupConfig("sgd", 0.1, (0.9,), 0.01)
MOE = moe_config.MoEConfig(16, 2, 2, 1, 5, 2, 16, 32, True, 10_000.0, 1e-5, 0.0, "aux_loss", 0.1, 0.001)
DENSE = gpt_config.GPTConfig("llama", 16, 2, 2, 1, 24, 32, False, 10_000.0, 1e-5, 0.0)
TRAIN_CONFIG = TrainConfig(
    seed=1,
    device="cpu",
    threads=1,
    precision="fp32",
    data_packing="padded",
    seq_len=12,
    global_batch_size=8,
    micro_batch_size=2,  # two passes in each of two processes
    max_steps=4,
    activation_checkpointing=None,
    compile=False,
    label_smoothing=0.0,
    optimizer=OptimizerConfig(ADAMW, MUON, ADAMW, 0.1),  # every step is clipped
    lr_schedule=LRScheduleConfig(1, 0, "linear", 0.1),
    eval=TrainEvalConfig(2, 5),
    checkpoints=CheckpointConfig(5, 2, None, False),
    spike_guard=None,
    reduce_lr_on_plateau=None,
    early_stopping=None,
    seq_len_schedule=None,
    ema_decay=None,
    sample=None,
    distributed=None,
    loggers=(),
)


def with_matrix_group(group: ParamGroupConfig) -> TrainConfig:
    return replace(TRAIN_CONFIG, optimizer=replace(TRAIN_CONFIG.optimizer, matrix=group))


CASES: dict[str, tuple[Any, TrainConfig]] = {
    "mixture": (MOE, TRAIN_CONFIG),
    "joint balance": (replace(MOE, load_balancing="global_aux_loss"), TRAIN_CONFIG),
    "balance by a bias": (replace(MOE, load_balancing="bias", load_balancing_weight=0.01), TRAIN_CONFIG),
    "llama": (DENSE, TRAIN_CONFIG),
    "gpt2": (replace(DENSE, variant="gpt2", num_key_value_heads=2, tie_word_embeddings=True, rope_theta=None), TRAIN_CONFIG),
    "lion": (MOE, with_matrix_group(ParamGroupConfig("lion", 0.001, (0.9, 0.99), 0.1))),
    "sgd": (MOE, with_matrix_group(SGD)),
    "recomputed": (MOE, replace(TRAIN_CONFIG, activation_checkpointing=1)),
    "recomputed by twos": (MOE, replace(TRAIN_CONFIG, activation_checkpointing=2)),
    "average": (MOE, replace(TRAIN_CONFIG, ema_decay=0.9)),
    "fp16": (MOE, replace(TRAIN_CONFIG, precision="fp16", optimizer=OptimizerConfig(SGD, SGD, SGD, 0.1))),
    "bf16": (MOE, replace(TRAIN_CONFIG, precision="bf16", optimizer=OptimizerConfig(SGD, SGD, SGD, 0.1))),
}
SPIKE_GUARD = SpikeGuardConfig(
    window_size=8,
    min_history=2,
    threshold_std=50.0,
    max_skips=1,
    skip_window=5,
    max_rollbacks=1,
    rollback_lr_factor=0.5,
    rollback_lr_steps=10,
)  # every skip causes a rollback


def make_dataset() -> TokenDataset:
    """Return documents of 3 to 12 tokens, so that the micro-batches differ in their number of targets."""
    draw = np.random.default_rng(1)
    documents = [[2, *draw.integers(4, 20, 1 + i % 10).tolist(), 3] for i in range(36)]
    return TokenDataset(split_of(documents[:30]), split_of(documents[30:]), 20, {"pad": 0, "unk": 1, "bos": 2, "eos": 3})


def split_of(documents: list[list[int]]) -> DatasetSplit:
    lengths = np.array([len(document) for document in documents], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
    return DatasetSplit(np.concatenate(documents).astype(np.uint16), starts, [str(i) for i in range(len(documents))], lengths)


def trained(
    model_config: Any,
    config: TrainConfig,
    dist: DistributedContext = SINGLE_PROCESS,
    resume: Checkpoint | None = None,
    until: int = 99,
    fault: str = "",
) -> tuple[list[dict[str, Any]], Checkpoint]:
    """Train and return what each step recorded, and the last checkpoint.

    A `fault` occurs in one process: `memory` in every pass of the last one, `nan` where the sixth sequence of step 2 is computed.
    """
    spec = gpt.SPEC if isinstance(model_config, gpt_config.GPTConfig) else moe.SPEC
    rng_state.seed_all(3)
    model = spec.build(model_config, 20)
    if config.precision == "fp32":
        model.double()  # sums in another order then differ so little that nothing else can hide behind it
    apply_compile_and_ac(spec, model, config)
    through = apply_fsdp(model, "cpu") if dist.is_sharded else lambda objective: objective
    (objective,) = [through(each) for each in spec.objectives(model, IGNORE)]
    dataloader, callbacks = build_dataloader(make_dataset(), config), build_callbacks(config, objective.eval_term)
    poison = dataloader.batch_at(8, 8).inputs_BT[5]
    good: list[Checkpoint] = []

    def loss(batch: TokenBatch) -> Mapping[str, Tensor]:
        if fault == "memory" and model.training and dist.rank == dist.world_size - 1 and len(batch.inputs_BT) > 1:
            raise torch.OutOfMemoryError("planted")
        terms = objective.loss(batch)
        length = min(len(poison), batch.inputs_BT.shape[1])
        if fault == "nan" and model.training and (batch.inputs_BT[:, :length] == poison[:length]).all(1).any():
            return {**terms, "loss": terms["loss"] * math.nan}
        return terms

    def load_rollback_checkpoint() -> Checkpoint | None:
        return dist.broadcast_checkpoint(good[0] if dist.is_main else None)

    results, state = [], None
    for step in train_steps(
        model, [replace(objective, loss=loss)], dataloader, callbacks, config, resume, load_rollback_checkpoint, dist
    ):
        results.append({"terms": step.terms, "norm": step.grad_norm, "norms": step.grad_norms, "val_losses": step.val_losses})
        results[-1] |= {
            "micro_batch_size": step.micro_batch_size,
            "num_targets": step.num_targets,
            "skip_reason": step.skip_reason,
            "model_metrics": step.model_metrics,
        }
        results[-1] |= {"rollback_reason": step.rollback_reason, "lr_scale": step.lr_scale}
        if fault == "nan" and not good:
            good.append(cpu_copy(step.snapshot()))
        if step.stop_reason or step.number == until:
            state = step.snapshot()
            results[-1]["generators"] = len({tuple(tensor.tolist()) for tensor in state.state_dicts["rng"].values()})
            break
    assert state is not None
    return results, state


def primitives(dist: DistributedContext) -> dict[str, Any]:
    """Run every collective: gradients are 1 on rank 0 and 10 on rank 1; a third parameter has none anywhere."""
    first, second, frozen = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    first.grad = torch.full((3,), float(10**dist.rank))
    second.grad = torch.ones(3) if dist.rank else None
    dist.all_reduce_grads([first, second, frozen])
    tensors = {"a": torch.arange(4.0) + dist.rank, "b": torch.tensor(dist.rank), "c": torch.zeros(0, 2, dtype=torch.bfloat16)}
    received = dist.broadcast_checkpoint(Checkpoint({"model": tensors}, {"step": 5 + dist.rank}) if dist.is_main else None)
    assert received is not None and dist.broadcast_checkpoint(None) is None
    router, empty = Router(3, 3, 1, use_expert_bias=True), torch.zeros(0)
    router.accumulate_load(Routing(torch.tensor([[[0], [0], [1]], [[1], [1], [2]]][dist.rank]), empty, empty, empty))
    router.update_expert_bias(0.5)
    tensors, metadata = dist.all_gather({"cpu": torch.tensor([7 + dist.rank])}, {"drawn": dist.rank})
    return {
        "gradients": [None if p.grad is None else p.grad.tolist() for p in (first, second, frozen)],
        "expert_bias": router.bias_E.tolist(),
        "any": [dist.any_rank(False), dist.any_rank(dist.rank == 1)],
        "broadcast": dist.broadcast([0.1 + dist.rank]),
        "checkpoint": [{name: [t.tolist(), str(t.dtype)] for name, t in received.state_dicts["model"].items()}, received.metadata],
        "gathered": [{name: t.tolist() for name, t in tensors.items()}, metadata],
        "local_part": [
            {name: t.tolist() for name, t in (dist.local_part(tensors, metadata) or ({}, None))[0].items()},
            metadata[dist.rank],
        ],
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with init_distributed(DistributedConfig(2, "ddp"), torch.device("cpu")) as ddp:
        fsdp2 = replace(ddp, strategy="fsdp2")
        results: dict[str, Any] = {"primitives": primitives(ddp)}
        weights: dict[str, Tensor] = {}

        def keep(name: str, result: tuple[list[dict[str, Any]], Checkpoint]) -> Checkpoint:
            results[name], state = result
            weights.update({f"{name}/{key}": tensor.clone() for key, tensor in state.state_dicts.get("model", {}).items()})
            return state

        for dist in (ddp, fsdp2):
            for name, (model_config, config) in CASES.items():
                keep(f"{name} {dist.strategy}", trained(model_config, config, dist))
            dropped = replace(MOE, dropout=0.2)
            keep(f"dropped {dist.strategy}", trained(dropped, TRAIN_CONFIG, dist))
            half = dist.broadcast_checkpoint(trained(dropped, TRAIN_CONFIG, dist, until=2)[1])
            rng_state.seed_all(99)  # another process would be elsewhere
            keep(f"dropped, resumed {dist.strategy}", trained(dropped, TRAIN_CONFIG, dist, half))
            target = ddp if dist is fsdp2 else fsdp2
            half = dist.broadcast_checkpoint(trained(MOE, TRAIN_CONFIG, dist, until=2)[1])
            keep(f"mixture, resumed {dist.strategy} to {target.strategy}", trained(MOE, TRAIN_CONFIG, target, half))
            keep(f"nan {dist.strategy}", trained(MOE, replace(TRAIN_CONFIG, spike_guard=SPIKE_GUARD), dist, fault="nan"))
            alone = trained(MOE, TRAIN_CONFIG, until=2)[1]
            keep(f"mixture, resumed alone to {dist.strategy}", trained(MOE, TRAIN_CONFIG, dist, alone))
            keep(f"mixture, resumed {dist.strategy} to alone", trained(MOE, TRAIN_CONFIG, SINGLE_PROCESS, half))
        keep("memory ddp", trained(MOE, TRAIN_CONFIG, ddp, fault="memory"))
        (folder / f"{ddp.rank}.json").write_text(json.dumps(results))
        if ddp.is_main:
            save_file(weights, folder / "weights.safetensors")
