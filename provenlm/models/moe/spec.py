"""The answers of the mixture-of-experts decoder to the questions of a net."""

from provenlm.models.common.layers.decoder import continued, logits
from provenlm.models.common.spec import Net
from provenlm.models.moe.config import Settings
from provenlm.models.moe.hf_export import published
from provenlm.models.moe.losses import objectives
from provenlm.models.moe.metrics import probe
from provenlm.models.moe.model import build, count, flops

SPEC = Net(
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
