"""The folder that a run left when it stopped over a step in; the losses and the gradient norm of that step, computed again, out.

By hand: `python -c "from provenlm.training.checkpoints.replay import replay; print(replay('FOLDER'))"`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from provenlm.models.common.objective import IGNORE, Batch
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.optim import gradients


@dataclass(frozen=True)
class ReplayResult:
    """The terms and the gradient norm of each objective, on the CPU. `facts`: which step and rows, and in which precision."""

    terms: dict[str, dict[str, float]]
    grad_norms: dict[str, float]
    metadata: dict[str, Any]


def replay_step(folder: str | Path) -> ReplayResult:
    """Compute the step of a dump again. ProvenlmError if the folder is damaged."""
    loaded, state = checkpoint.load_model(Path(folder)), checkpoint.load_checkpoint(Path(folder))
    batch = Batch(**state.state_dicts["batch"], label_smoothing=state.metadata["smoothing"])
    loaded.model.train()
    rng_state.set_rng_state(dict(state.state_dicts["random"]), state.metadata["random"])
    terms, grad_norms = {}, {}
    for objective in loaded.spec.objectives(loaded.model, IGNORE):
        micro_batch_size, precision, loss_scale = (state.metadata[name] for name in ("micro_batch", "precision", "scale"))
        terms[objective.name], grad_norms[objective.name], _ = gradients.compute_gradients(
            objective, batch, micro_batch_size, precision, loss_scale, None, batch.inputs_BT.device
        )
    return ReplayResult(terms, grad_norms, {name: value for name, value in state.metadata.items() if name != "random"})
