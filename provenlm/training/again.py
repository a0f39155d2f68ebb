"""A recipe's training in, a net trained so with another seed out: how much of a result is luck shows only beside others."""

from dataclasses import replace
from typing import Any

from torch import nn

from provenlm.core.progress import progress
from provenlm.tokens.shards import Tokens
from provenlm.training.batches import batches_for, in_steps
from provenlm.training.device import device_of
from provenlm.training.fit import fit
from provenlm.training.net import Net, arrange, fresh
from provenlm.training.objective import IGNORE
from provenlm.training.session import monitors_for
from provenlm.training.settings import Settings


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
