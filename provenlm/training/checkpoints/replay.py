"""Repeat the failed step that a run dumped when it stopped.

By hand: `python -c "from provenlm.training.checkpoints.replay import replay_step; print(replay_step('FOLDER'))"`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from provenlm.models.common.objective import IGNORE
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.batch_dump import load_batch
from provenlm.training.optim import gradients


@dataclass(frozen=True)
class ReplayResult:
    """Hold the loss terms and gradient norm of each objective.

    `metadata`: the step, the position in the data and the precision.
    """

    terms: dict[str, dict[str, float]]
    grad_norms: dict[str, float]
    metadata: dict[str, Any]


def replay_step(folder: str | Path) -> ReplayResult:
    """Compute a dumped step again, on the CPU.

    Raises CheckpointError if the folder is damaged.
    """
    loaded, state = checkpoint.load_model(Path(folder)), checkpoint.load_checkpoint(Path(folder))
    batch = load_batch(state.state_dicts["batch"], state.metadata["batch"])
    loaded.model.train()
    rng_state.set_rng_state(dict(state.state_dicts["rng"]), state.metadata["rng"])
    terms, grad_norms = {}, {}
    micro_batch_size, precision, loss_scale = (state.metadata[name] for name in ("micro_batch_size", "precision", "loss_scale"))
    for objective in loaded.spec.objectives(loaded.model, IGNORE):
        terms[objective.name], grad_norms[objective.name], _ = gradients.compute_gradients(
            objective, batch, micro_batch_size, precision, loss_scale, None, torch.device("cpu")
        )
    return ReplayResult(terms, grad_norms, {name: value for name, value in state.metadata.items() if name not in ("batch", "rng")})
