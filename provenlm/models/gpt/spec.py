"""The answers of the dense decoder to the questions of a net."""

from provenlm.models.common.layers.decoder import continued, logits
from provenlm.models.common.spec import Net
from provenlm.models.gpt.config import Settings
from provenlm.models.gpt.hf_export import published
from provenlm.models.gpt.losses import objectives
from provenlm.models.gpt.model import build, count, flops

SPEC = Net(
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
