"""The answers of the dense decoder to the questions of a net."""

from provenlm.layers.decoder import continued, logits
from provenlm.nets.gpt.model import build, count, flops
from provenlm.nets.gpt.objectives import objectives
from provenlm.nets.gpt.published import published
from provenlm.nets.gpt.settings import Settings
from provenlm.training.net import Net

FACE = Net(
    settings=Settings,
    build=build,
    objectives=objectives,
    logits=logits,
    continued=continued,
    count=count,
    flops=flops,
    probe=lambda model, tokens_BT: {},
    context=lambda settings: settings.context,
    published=published,
)
