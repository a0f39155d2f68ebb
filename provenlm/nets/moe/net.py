"""The answers of the mixture-of-experts decoder to the questions of a net."""

from provenlm.layers.decoder import continued, logits
from provenlm.nets.moe.model import build, count, flops
from provenlm.nets.moe.objectives import objectives
from provenlm.nets.moe.probes import probe
from provenlm.nets.moe.published import published
from provenlm.nets.moe.settings import Settings
from provenlm.training.net import Net

FACE = Net(
    settings=Settings,
    build=build,
    objectives=objectives,
    logits=logits,
    continued=continued,
    count=count,
    flops=flops,
    probe=probe,
    context=lambda settings: settings.context,
    published=published,
)
