"""The answers of the mixture-of-experts decoder to the questions of a net."""

from provenlm.nets.moe.model import build, count, logits
from provenlm.nets.moe.objectives import objectives
from provenlm.nets.moe.probes import probe
from provenlm.nets.moe.settings import Settings
from provenlm.training.net import Net

FACE = Net(Settings, build, objectives, logits, count, probe, lambda settings: settings.context)
