"""A net's own question in, its figures as measured on held-out windows out."""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from provenlm.core.audit import Recorder
from provenlm.evaluation.probe import Probe, Subject
from provenlm.evaluation.token_loss import stretches

Asked = Callable[[nn.Module, Tensor], Mapping[str, tuple[float, str, str]]]


def particular(asked: Asked, tokens: int) -> Probe:
    """`asked(model, tokens_BT)` names figures with value, unit and meaning; it is shown about `tokens` tokens of documents."""

    def probe(subject: Subject, figures: Recorder) -> None:
        with torch.inference_mode():
            found = asked(subject.model, stretches(subject, tokens)[:, :-1])
        for name, (value, unit, meaning) in found.items():
            figures.measured(name, value, unit, meaning)

    return probe
