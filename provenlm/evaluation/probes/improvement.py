"""The net before its first step and after its last in, figures on whether it learned anything at all out."""

import math
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from provenlm.core.audit import Recorder
from provenlm.evaluation.probe import Probe, Subject
from provenlm.evaluation.token_loss import measure, some_documents, windows


def learned(batch_tokens: int, initial_tokens: int) -> Probe:
    """`initial_tokens` is the least number of targets that the untrained net is measured on."""

    def probe(subject: Subject, figures: Recorder) -> None:
        fresh = subject.untrained().to(subject.device).eval()
        split = subject.unseen
        rows = windows(split, subject.length, some_documents(split, initial_tokens, subject.seed))
        before = measure(replace(subject, model=fresh), split, rows, batch_tokens, "loss before training")
        after = measure(subject, split, rows, batch_tokens, "loss after training")
        floor = math.log(subject.tokens.vocabulary)
        meaning = "mean loss of the net built anew with the seed of the training, before its first step"
        figures.measured("initial_loss", float(before.nats.mean()), "nats/token", meaning)
        figures.measured("initial_gap", float(before.nats.mean()) - floor, "nats/token", "that loss minus ln of the vocabulary")
        fallen = float(np.mean(before.nats - after.nats))
        figures.measured("fallen", fallen, "nats/token", "loss before training minus loss after it, on the same targets")
        _moved(figures, subject.model, fresh)

    return probe


def _moved(figures: Recorder, model: nn.Module, fresh: nn.Module) -> None:
    now, then = dict(model.named_parameters()), dict(fresh.named_parameters())
    if now.keys() != then.keys():
        raise ValueError(f"the net built anew has other parameters: {sorted(now.keys() ^ then.keys())[:3]}")
    trainable = sum(p.numel() for p in now.values() if p.requires_grad)
    figures.counted("trainable", trainable, "parameters", "parameters that training may move")
    still = [name for name, parameter in now.items() if _distance(parameter, then[name]) == 0]
    figures.counted("unmoved", len(still), "tensors", "parameter tensors that are bit for bit as before the first step")
    travelled = math.sqrt(sum(_distance(p, then[name]) for name, p in now.items()))
    length = math.sqrt(sum(float(p.detach().double().square().sum()) for p in then.values()))
    meaning = "distance of all parameters from where they began, over the length of where they began"
    figures.measured("moved", travelled / length, "ratio", meaning)


def _distance(one: Tensor, other: Tensor) -> float:
    """Squared Euclidean distance."""
    return float((one.detach().double() - other.detach().double()).square().sum())
