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
class Replayed:
    """The terms and the gradient norm of each objective, on the CPU. `facts`: which step and rows, and in which precision."""

    terms: dict[str, dict[str, float]]
    grad_norms: dict[str, float]
    facts: dict[str, Any]


def replay(folder: str | Path) -> Replayed:
    """Compute the step of a dump again. UserError if the folder is damaged."""
    loaded, state = checkpoint.load_net(Path(folder)), checkpoint.read(Path(folder))
    batch = Batch(**state.tensors["batch"], smoothing=state.facts["smoothing"])
    loaded.model.train()
    rng_state.give_back(dict(state.tensors["random"]), state.facts["random"])
    terms, norms = {}, {}
    for objective in loaded.net.objectives(loaded.model, IGNORE):
        micro_batch, precision, scale = (state.facts[name] for name in ("micro_batch", "precision", "scale"))
        terms[objective.name], norms[objective.name], _ = gradients.gather(
            objective, batch, micro_batch, precision, scale, None, batch.inputs_BT.device
        )
    return Replayed(terms, norms, {name: value for name, value in state.facts.items() if name != "random"})
