"""Trainings that are done by one process and, when this is run under torchrun with a folder as its argument, by several.

Every process writes what it saw to `<rank>.json` there; the first also the last weights of every training.
"""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.gpt import config as gpt_settings
from provenlm.models.gpt import spec as gpt
from provenlm.models.moe import config as moe_settings
from provenlm.models.moe import spec as moe
from provenlm.training import rng_state
from provenlm.training.build_model import arrange
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
from provenlm.training.run import build_callbacks

ADAMW = ParamGroupConfig("adamw", 0.01, (0.9, 0.95), 0.01)
MUON = ParamGroupConfig("muon", 0.02, (0.95,), 0.01)
SGD = ParamGroupConfig("sgd", 0.1, (0.9,), 0.01)
MIXTURE = moe_settings.MoEConfig(16, 2, 2, 1, 5, 2, 16, 32, True, 10_000.0, 1e-5, 0.0, "layerwise", 0.1, 0.001)
DENSE = gpt_settings.GPTConfig("llama", 16, 2, 2, 1, 24, 32, False, 10_000.0, 1e-5, 0.0)
USUAL = TrainConfig(
    seed=1,
    device="cpu",
    threads=1,
    precision="fp32",
    data_packing="documents",
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


def with_matrices_by(group: ParamGroupConfig) -> TrainConfig:
    return replace(USUAL, optimizer=replace(USUAL.optimizer, matrix=group))


CASES: dict[str, tuple[Any, TrainConfig]] = {
    "mixture": (MIXTURE, USUAL),
    "joint balance": (replace(MIXTURE, load_balancing="joint"), USUAL),
    "balance by a bias": (replace(MIXTURE, load_balancing="bias", load_balancing_weight=0.01), USUAL),
    "llama": (DENSE, USUAL),
    "gpt2": (replace(DENSE, variant="gpt2", num_key_value_heads=2, tie_word_embeddings=True, rope_theta=None), USUAL),
    "lion": (MIXTURE, with_matrices_by(ParamGroupConfig("lion", 0.001, (0.9, 0.99), 0.1))),
    "sgd": (MIXTURE, with_matrices_by(SGD)),
    "recomputed": (MIXTURE, replace(USUAL, activation_checkpointing=1)),
    "recomputed by twos": (MIXTURE, replace(USUAL, activation_checkpointing=2)),
    "average": (MIXTURE, replace(USUAL, ema_decay=0.9)),
    "fp16": (MIXTURE, replace(USUAL, precision="fp16", optimizer=OptimizerConfig(SGD, SGD, SGD, 0.1))),
    "bf16": (MIXTURE, replace(USUAL, precision="bf16", optimizer=OptimizerConfig(SGD, SGD, SGD, 0.1))),
}
LADDER = SpikeGuardConfig(
    window_size=8,
    min_history=2,
    threshold_std=50.0,
    max_skips=1,
    skip_window=5,
    max_rollbacks=1,
    rollback_lr_factor=0.5,
    rollback_lr_steps=10,
)  # skips go back
Way = Literal["ddp", "fsdp2"]


def tokens() -> TokenDataset:
    """30 documents of 3 to 12 tokens, so that no two parts of a batch have as many targets."""
    draw = np.random.default_rng(1)
    documents = [[2, *draw.integers(4, 20, 1 + i % 10).tolist(), 3] for i in range(36)]
    return TokenDataset(split_of(documents[:30]), split_of(documents[30:]), 20, {"pad": 0, "unk": 1, "bos": 2, "eos": 3})


def split_of(documents: list[list[int]]) -> DatasetSplit:
    lengths = np.array([len(document) for document in documents], np.int64)
    starts = np.concatenate([np.zeros(1, np.int64), lengths.cumsum()])
    return DatasetSplit(np.concatenate(documents).astype(np.uint16), starts, [str(i) for i in range(len(documents))], lengths)


def trained(
    shape: Any,
    settings: TrainConfig,
    ours: DistributedContext = SINGLE_PROCESS,
    resume: Checkpoint | None = None,
    until: int = 99,
    fault: str = "",
) -> tuple[list[dict[str, Any]], Checkpoint]:
    """What each step gave, and the last state. A `fault` is met by one process alone: `memory` in every pass of the last one, `nan`
    by whoever computes the sixth row of step 2."""
    net = gpt.SPEC if isinstance(shape, gpt_settings.GPTConfig) else moe.SPEC
    rng_state.seed_all(3)
    model = net.build(shape, 20)
    if settings.precision == "fp32":
        model.double()  # sums in another order then differ so little that nothing else can hide behind it
    arrange(model, settings)
    through = apply_fsdp(model, "cpu") if ours.is_sharded else lambda objective: objective
    (objective,) = [through(each) for each in net.objectives(model, IGNORE)]
    batches, monitors = build_dataloader(tokens(), settings), build_callbacks(settings, objective.eval_term)
    poison = batches.batch_at(8, 8).inputs_BT[5]
    good: list[Checkpoint] = []

    def loss(batch: Batch) -> Mapping[str, Tensor]:
        if fault == "memory" and model.training and ours.rank == ours.world_size - 1 and len(batch.inputs_BT) > 1:
            raise torch.OutOfMemoryError("planted")
        terms = objective.loss(batch)
        length = min(len(poison), batch.inputs_BT.shape[1])
        if fault == "nan" and model.training and (batch.inputs_BT[:, :length] == poison[:length]).all(1).any():
            return {**terms, "loss": terms["loss"] * math.nan}
        return terms

    def recall() -> Checkpoint | None:
        return ours.broadcast_checkpoint(good[0] if ours.is_main else None)

    found, state = [], None
    for step in train_steps(model, [replace(objective, loss=loss)], batches, monitors, settings, resume, recall, ours):
        found.append({"terms": step.terms, "norm": step.grad_norm, "norms": step.grad_norms, "held_out": step.val_losses})
        found[-1] |= {
            "rows": step.micro_batch_size,
            "targets": step.num_targets,
            "skipped": step.skip_reason,
            "inside": step.model_metrics,
        }
        found[-1] |= {"back": step.rollback_reason, "share": step.lr_scale}
        if fault == "nan" and not good:
            good.append(cpu_copy(step.snapshot()))
        if step.stop_reason or step.number == until:
            state = step.snapshot()
            found[-1]["generators"] = len({tuple(drawn.tolist()) for drawn in state.state_dicts["random"].values()})
            break
    assert state is not None
    return found, state


def primitives(ours: DistributedContext) -> dict[str, Any]:
    """What two processes tell each other: the first has a gradient of ones, the second of tens; a third parameter has none anywhere."""
    one, other, frozen = (nn.Parameter(torch.zeros(3)) for _ in range(3))
    one.grad = torch.full((3,), float(10**ours.rank))
    other.grad = torch.ones(3) if ours.rank else None
    ours.all_reduce_grads([one, other, frozen])
    mine = {"a": torch.arange(4.0) + ours.rank, "b": torch.tensor(ours.rank), "c": torch.zeros(0, 2, dtype=torch.bfloat16)}
    told = ours.broadcast_checkpoint(Checkpoint({"model": mine}, {"step": 5 + ours.rank}) if ours.is_main else None)
    assert told is not None and ours.broadcast_checkpoint(None) is None
    tensors, facts = ours.all_gather({"cpu": torch.tensor([7 + ours.rank])}, {"drawn": ours.rank})
    return {
        "gradients": [None if p.grad is None else p.grad.tolist() for p in (one, other, frozen)],
        "any": [ours.any_rank(False), ours.any_rank(ours.rank == 1)],
        "said": ours.broadcast([0.1 + ours.rank]),
        "told": [{name: [t.tolist(), str(t.dtype)] for name, t in told.state_dicts["model"].items()}, told.metadata],
        "gathered": [{name: t.tolist() for name, t in tensors.items()}, facts],
        "mine": [{name: t.tolist() for name, t in (ours.local_part(tensors, facts) or ({}, None))[0].items()}, facts[ours.rank]],
    }


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    with init_distributed(DistributedConfig(2, "ddp"), torch.device("cpu")) as ddp:
        fsdp2 = replace(ddp, way="fsdp2")
        found: dict[str, Any] = {"primitives": primitives(ddp)}
        kept: dict[str, Tensor] = {}

        def keep(name: str, result: tuple[list[dict[str, Any]], Checkpoint]) -> Checkpoint:
            found[name], state = result
            kept.update({f"{name}/{key}": tensor.clone() for key, tensor in state.state_dicts.get("model", {}).items()})
            return state

        for ours in (ddp, fsdp2):
            for name, (shape, settings) in CASES.items():
                keep(f"{name} {ours.strategy}", trained(shape, settings, ours))
            dropped = replace(MIXTURE, dropout=0.2)
            keep(f"dropped {ours.strategy}", trained(dropped, USUAL, ours))
            half = ours.broadcast_checkpoint(trained(dropped, USUAL, ours, until=2)[1])
            rng_state.seed_all(99)  # another process would be elsewhere
            keep(f"dropped, resumed {ours.strategy}", trained(dropped, USUAL, ours, half))
            other = ddp if ours is fsdp2 else fsdp2
            half = ours.broadcast_checkpoint(trained(MIXTURE, USUAL, ours, until=2)[1])
            keep(f"mixture, resumed {ours.strategy} to {other.strategy}", trained(MIXTURE, USUAL, other, half))
            keep(f"nan {ours.strategy}", trained(MIXTURE, replace(USUAL, spike_guard=LADDER), ours, fault="nan"))
            alone = trained(MIXTURE, USUAL, until=2)[1]
            keep(f"mixture, resumed alone to {ours.strategy}", trained(MIXTURE, USUAL, ours, alone))
            keep(f"mixture, resumed {ours.strategy} to alone", trained(MIXTURE, USUAL, SINGLE_PROCESS, half))
        keep("memory ddp", trained(MIXTURE, USUAL, ddp, fault="memory"))
        (folder / f"{ddp.rank}.json").write_text(json.dumps(found))
        if ddp.is_main:
            save_file(kept, folder / "weights.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
