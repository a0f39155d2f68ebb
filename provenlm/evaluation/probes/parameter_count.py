"""A built net and its closed form in, parameters by count and by formula, and the difference of the two, out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from provenlm.core.audit import Recorder, Table
from provenlm.evaluation.probe import Probe, Subject


@dataclass(frozen=True)
class Shape:
    """A further shape to count: `build` makes the net (it is called on torch's meta device), `closed_form` counts it unbuilt."""

    build: Callable[[], nn.Module]
    closed_form: Mapping[str, int]


def parameters(shapes: Mapping[str, Shape]) -> Probe:
    """Count the trained net and each of `shapes`."""

    def probe(subject: Subject, figures: Recorder) -> None:
        _count(figures, "", subject.model, subject.closed_form)
        active = count_active(subject)
        meaning = "parameters that one token meets: tensors, and experts of stacked ones, that its own backward pass reaches"
        figures.measured("active", active, "parameters", meaning)
        figures.counted("difference.active", active - subject.closed_form["active"], "parameters", "active minus its closed form")
        figures.tables.append(_parts(subject.closed_form))
        figures.tables.append(_tensors(subject.model))
        figures.tables.append(_modules(subject.model))
        for name, shape in shapes.items():
            with torch.device("meta"):
                _count(figures, f"also.{name}.", shape.build(), shape.closed_form)

    return probe


def _count(figures: Recorder, prefix: str, model: nn.Module, closed_form: Mapping[str, int]) -> None:
    built = list(model.parameters())  # a shared tensor comes once
    total = sum(p.numel() for p in built)
    figures.counted(f"{prefix}total", total, "parameters", "parameters of the built net, shared ones once")
    trainable = sum(p.numel() for p in built if p.requires_grad)
    figures.counted(f"{prefix}trainable", trainable, "parameters", "parameters that training may move")
    figures.counted(f"{prefix}closed_form.total", closed_form["total"], "parameters", "parameters by formula, without building")
    meaning = "parameters that one token meets, by formula"
    figures.counted(f"{prefix}closed_form.active", closed_form["active"], "parameters", meaning)
    figures.counted(f"{prefix}difference.total", total - closed_form["total"], "parameters", "built minus by formula")


def count_active(subject: Subject) -> int:
    """Parameters reached by the backward pass of one token's logits.

    A tensor of three or more dimensions is a stack (of experts): each of its slices counts for itself, if any gradient in it
    differs from nought. Other tensors count whole: with one token a gradient may vanish although the tensor was used.
    """
    model = subject.model
    model.zero_grad(set_to_none=True)
    token_BT = torch.full((1, 1), subject.tokens.special.get("bos", 0), device=subject.device)
    with torch.enable_grad():
        logits_V = subject.logits(model, token_BT)[0, 0].float()
        weights_V = torch.linspace(-1, 1, len(logits_V), device=logits_V.device)
        (logits_V * weights_V).sum().backward()  # type: ignore[no-untyped-call]
    count = 0
    for parameter in model.parameters():
        if parameter.grad is None:
            continue
        if parameter.ndim < 3:
            count += parameter.numel()
        else:
            count += int(parameter.grad.flatten(1).any(1).sum()) * parameter[0].numel()
    model.zero_grad(set_to_none=True)
    return count


def _parts(closed_form: Mapping[str, int]) -> Table:
    total = closed_form["total"]
    rows = [(part, count, round(count / total, 4)) for part, count in closed_form.items() if part not in ("total", "active")]
    return Table("parts", "parameters by part of the net, by formula", ("part", "parameters", "share"), rows)


def _tensors(model: nn.Module) -> Table:
    """Tensors of the built net, those that differ only in the number of their layer on one line."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name, parameter in model.named_parameters():
        key = (re.sub(r"\.\d+\.", ".*.", f".{name}")[1:], " × ".join(map(str, parameter.shape)) or "1")
        groups.setdefault(key, []).append(parameter.numel())
    rows = [(name, shape, len(sizes), sum(sizes)) for (name, shape), sizes in groups.items()]
    return Table("tensors", "parameters of the built net by tensor", ("tensor", "shape", "times", "parameters"), rows)


def _modules(model: nn.Module) -> Table:
    """Kinds of module of the built net with the plain values that they hold: heads, experts, dropout, as they were really built."""
    groups: dict[tuple[str, str], list[int]] = {}
    for module in model.modules():
        held = {name: value for name, value in vars(module).items() if isinstance(value, int | float | str) and name[0] != "_"}
        words = ", ".join(f"{name} {value}" for name, value in held.items() if name != "training")
        groups.setdefault((type(module).__name__, words), []).append(sum(p.numel() for p in module.parameters(recurse=False)))
    rows = [(kind, len(sizes), sum(sizes), words) for (kind, words), sizes in groups.items()]
    return Table(
        "modules", "modules of the built net, outermost first", ("module", "times", "parameters of its own", "holds"), rows
    )
