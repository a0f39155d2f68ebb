"""A recipe's training in, a net trained so with another seed out: how much of a result is luck shows only beside others."""

from dataclasses import replace
from typing import Any

from torch import nn

from provenlm.core.progress import progress
from provenlm.data.token_dataset import Tokens
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import Net
from provenlm.training.build_model import arrange, fresh
from provenlm.training.config import Settings
from provenlm.training.dataloader import batches_for, in_steps
from provenlm.training.device import device_of
from provenlm.training.loop import fit
from provenlm.training.run import monitors_for


def again(net: Net, shape: Any, tokens: Tokens, asked: Settings, seed: int) -> tuple[nn.Module, float]:
    """The net that is published, on the CPU, and the wall seconds of its steps; by one process, and without a checkpoint."""
    settings = replace(in_steps(asked, tokens), seed=seed, parallel=None)
    model = fresh(net, shape, tokens.vocabulary, seed).to(device_of(settings.device))
    arrange(model, settings)
    objectives, seconds = net.objectives(model, IGNORE), 0.0
    monitors = monitors_for(settings, objectives[0].judge)
    with progress(f"seed {seed}", "step", settings.total_steps) as bar:
        for step in fit(model, objectives, batches_for(tokens, settings), monitors, settings, None, lambda: None):
            seconds += step.seconds
            bar.advance()
    made = fresh(net, shape, tokens.vocabulary, seed)
    made.load_state_dict(dict(step.snapshot().tensors["model"]))
    return made.eval(), seconds
