"""A built net and its closed form in, parameters by count and by formula, and the difference of the two, out."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe


@dataclass(frozen=True)
class CountOnlyModel:
    """A further shape to count: `build` makes the net (it is called on torch's meta device), `closed_form` counts it unbuilt."""

    build: Callable[[], nn.Module]
    analytic_counts: Mapping[str, int]


def param_count_probe(count_only_models: Mapping[str, CountOnlyModel]) -> Probe:
    """Count the trained net and each of `shapes`."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        _record_counts(metrics, "", context.model, context.analytic_counts)
        active = active_params(context)
        description = "parameters that one token meets: tensors, and experts of stacked ones, that its own backward pass reaches"
        metrics.add_measurement("active", active, "parameters", description)
        metrics.add_count(
            "difference.active", active - context.analytic_counts["active"], "parameters", "active minus its closed form"
        )
        metrics.tables.append(_part_table(context.analytic_counts))
        metrics.tables.append(_tensor_table(context.model))
        metrics.tables.append(_module_table(context.model))
        for name, count_only_model in count_only_models.items():
            with torch.device("meta"):
                _record_counts(metrics, f"also.{name}.", count_only_model.build(), count_only_model.analytic_counts)

    return probe


def _record_counts(metrics: MetricRecorder, prefix: str, model: nn.Module, analytic_counts: Mapping[str, int]) -> None:
    unique_params = list(model.parameters())  # a shared tensor comes once
    total = sum(p.numel() for p in unique_params)
    metrics.add_count(f"{prefix}total", total, "parameters", "parameters of the built net, shared ones once")
    trainable = sum(p.numel() for p in unique_params if p.requires_grad)
    metrics.add_count(f"{prefix}trainable", trainable, "parameters", "parameters that training may move")
    metrics.add_count(
        f"{prefix}closed_form.total", analytic_counts["total"], "parameters", "parameters by formula, without building"
    )
    description = "parameters that one token meets, by formula"
    metrics.add_count(f"{prefix}closed_form.active", analytic_counts["active"], "parameters", description)
    metrics.add_count(f"{prefix}difference.total", total - analytic_counts["total"], "parameters", "built minus by formula")


def active_params(context: EvalContext) -> int:
    """Parameters reached by the backward pass of one token's logits.

    A tensor of three or more dimensions is a stack (of experts): each of its slices counts for itself, if any gradient in it
    differs from nought. Other tensors count whole: with one token a gradient may vanish although the tensor was used.
    """
    model = context.model
    model.zero_grad(set_to_none=True)
    token_BT = torch.full((1, 1), context.tokens.special_tokens.get("bos", 0), device=context.device)
    with torch.enable_grad():
        logits_V = context.logits(model, token_BT)[0, 0].float()
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


def _part_table(analytic_counts: Mapping[str, int]) -> AuditTable:
    total = analytic_counts["total"]
    rows = [(part, count, round(count / total, 4)) for part, count in analytic_counts.items() if part not in ("total", "active")]
    return AuditTable("parts", "parameters by part of the net, by formula", ("part", "parameters", "share"), rows)


def _tensor_table(model: nn.Module) -> AuditTable:
    """Tensors of the built net, those that differ only in the number of their layer on one line."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name, parameter in model.named_parameters():
        key = (re.sub(r"\.\d+\.", ".*.", f".{name}")[1:], " × ".join(map(str, parameter.shape)) or "1")
        groups.setdefault(key, []).append(parameter.numel())
    rows = [(name, shape, len(sizes), sum(sizes)) for (name, shape), sizes in groups.items()]
    return AuditTable("tensors", "parameters of the built net by tensor", ("tensor", "shape", "times", "parameters"), rows)


def _module_table(model: nn.Module) -> AuditTable:
    """Kinds of module of the built net with the plain values that they hold: heads, experts, dropout, as they were really built."""
    groups: dict[tuple[str, str], list[int]] = {}
    for module in model.modules():
        attributes = {
            name: value for name, value in vars(module).items() if isinstance(value, int | float | str) and name[0] != "_"
        }
        attribute_text = ", ".join(f"{name} {value}" for name, value in attributes.items() if name != "training")
        groups.setdefault((type(module).__name__, attribute_text), []).append(
            sum(p.numel() for p in module.parameters(recurse=False))
        )
    rows = [(module_type, len(sizes), sum(sizes), attribute_text) for (module_type, attribute_text), sizes in groups.items()]
    return AuditTable(
        "modules", "modules of the built net, outermost first", ("module", "times", "parameters of its own", "holds"), rows
    )
