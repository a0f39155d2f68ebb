"""A probe looks at a trained net and records figures. One that raises leaves a figure that says so, which no bound admits."""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from provenlm.core.audit import Recorder
from provenlm.core.plugin import Codec
from provenlm.tokens.shards import Tokens


@dataclass(frozen=True)
class Subject:
    """What a probe may look at. `logits(model, tokens_BT)` gives logits_BTV; `length` is the longest T the model was trained on."""

    model: nn.Module
    logits: Callable[[nn.Module, Tensor], Tensor]
    codec: Codec
    tokens: Tokens
    length: int
    seed: int


Probe = Callable[[Subject, Recorder], None]
