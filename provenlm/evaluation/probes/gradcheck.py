"""A small net of the subject's kind in, figures on whether autograd gives the slopes that finite differences find out."""

from functools import partial

import torch
from torch import Tensor, nn

from provenlm.core import rng
from provenlm.core.audit import Recorder
from provenlm.evaluation.probe import Probe, Subject
from provenlm.evaluation.probes import finite_differences

VOCABULARY, ROWS, LENGTH = 23, 2, 9
SPREAD = 0.2  # of the weights: as built, what writes into the residual stream is nought, and hides the slopes behind it


def gradients() -> Probe:
    """Every parameter tensor of a seeded small net in float64, for every objective that training has."""

    def probe(subject: Subject, figures: Recorder) -> None:
        torch.manual_seed(rng.seed_of(subject.seed, "gradients"))
        model = spread(subject.small(VOCABULARY)).double().eval()
        rows_BT = torch.randint(VOCABULARY, (ROWS, min(LENGTH, subject.length) + 1))
        named = dict(model.named_parameters())
        figures.counted("parameters", sum(p.numel() for p in named.values()), "parameters", "of the small net that is looked at")
        objectives = list(subject.losses(model, rows_BT[:, :-1], rows_BT[:, 1:]))
        for name in objectives:
            value = partial(_loss, subject, model, rows_BT, name)
            with figures.under(name) as inner:
                _record(inner, finite_differences.compare(value, named, rng.seed_of(subject.seed, "elements")), name)

    return probe


def spread(model: nn.Module) -> nn.Module:
    """The same with every parameter drawn anew: vectors around one, the rest around nought."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, SPREAD)
    return model


def _loss(subject: Subject, model: nn.Module, rows_BT: Tensor, name: str) -> Tensor:
    return subject.losses(model, rows_BT[:, :-1], rows_BT[:, 1:])[name]


def _record(figures: Recorder, compared: finite_differences.Compared, objective: str) -> None:
    slopes, worst = compared.slopes, compared.worst
    how = "autograd against central differences in float64"
    figures.counted("tensors", len(slopes), "tensors", "parameter tensors whose gradients were compared, one by one")
    looked = sum(s.looked for s in slopes)
    figures.counted("elements", looked, "parameters", "moved one by one; larger tensors were also moved whole, along a direction")
    figures.counted("flat", len(compared.flat), "tensors", "parameter tensors that do not move the loss at all, by either way")
    figures.measured("relative_error", compared.error, "ratio", f"of the whole net's gradient: {how}")
    figures.measured("cosine", compared.cosine, "", f"between the whole net's gradients: {how}")
    figures.measured("largest_relative_error", worst.error, "ratio", f"of a single tensor, {worst.name}: {how}")
    figures.measured("smallest_cosine", compared.least_cosine, "", f"of a single tensor: {how}")
    figures.tables.append(finite_differences.table(compared, "tensors", f"gradients of the objective {objective}: {how}"))
