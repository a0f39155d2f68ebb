"""Count the parameters of a built model and compare them with the analytic count."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe


@dataclass(frozen=True)
class CountOnlyModel:
    """Hold a model to count: `build` is called on the meta device, `analytic_counts` come from formulas."""

    build: Callable[[], nn.Module]
    analytic_counts: Mapping[str, int]


def param_count_probe(count_only_models: Mapping[str, CountOnlyModel]) -> Probe:
    """Count the parameters of the evaluated model and of each of `count_only_models`."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        _record_counts(metrics, "", context.model, context.analytic_counts)
        active = active_params(context)
        description = (
            "Active parameters: those with a gradient in the backward pass of one token (experts of a stack count one by one)"
        )
        metrics.add_measurement("active", active, "parameters", description)
        metrics.add_count(
            "count_minus_analytic.active",
            active - context.analytic_counts["active"],
            "parameters",
            "Measured minus analytic count of active parameters",
        )
        metrics.tables.append(_part_table(context.analytic_counts))
        metrics.tables.append(_tensor_table(context.model))
        metrics.tables.append(_module_table(context.model))
        for name, count_only_model in count_only_models.items():
            with torch.device("meta"):
                _record_counts(metrics, f"reference_models.{name}.", count_only_model.build(), count_only_model.analytic_counts)

    return probe


def _record_counts(metrics: MetricRecorder, prefix: str, model: nn.Module, analytic_counts: Mapping[str, int]) -> None:
    """Record total and trainable parameters of `model` and its analytic counts."""
    suffix = f" of {prefix.split('.')[1]}, which was not trained" if prefix else " of the model"
    unique_params = list(model.parameters())  # a shared tensor occurs once
    total = sum(p.numel() for p in unique_params)
    metrics.add_count(f"{prefix}total", total, "parameters", f"Parameters{suffix}; shared tensors count once")
    trainable = sum(p.numel() for p in unique_params if p.requires_grad)
    metrics.add_count(f"{prefix}trainable", trainable, "parameters", f"Trainable parameters{suffix}")
    metrics.add_count(f"{prefix}analytic.total", analytic_counts["total"], "parameters", f"Parameters{suffix}, by formula")
    description = f"Active parameters per token{suffix}, by formula"
    metrics.add_count(f"{prefix}analytic.active", analytic_counts["active"], "parameters", description)
    metrics.add_count(
        f"{prefix}count_minus_analytic.total",
        total - analytic_counts["total"],
        "parameters",
        f"Counted minus analytic parameters{suffix}",
    )


def active_params(context: EvalContext) -> int:
    """Count the parameters that the backward pass of the logits of one token reaches.

    In a tensor of three or more dimensions (a stack of experts) each slice counts if its gradient is not 0. Other tensors count as
    a whole, because for one token a gradient may vanish although the tensor was used.
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
    return AuditTable("parts", "Parameters by part of the model, by formula", ("part", "parameters", "fraction"), rows)


def _tensor_table(model: nn.Module) -> AuditTable:
    """List the tensors of the model; tensors that differ in the layer number only share a line."""
    groups: dict[tuple[str, str], list[int]] = {}
    for name, parameter in model.named_parameters():
        key = (re.sub(r"\.\d+\.", ".*.", f".{name}")[1:], " × ".join(map(str, parameter.shape)) or "1")
        groups.setdefault(key, []).append(parameter.numel())
    rows = [(name, shape, len(sizes), sum(sizes)) for (name, shape), sizes in groups.items()]
    return AuditTable("tensors", "Parameters of the model by tensor", ("tensor", "shape", "count", "parameters"), rows)


def _module_table(model: nn.Module) -> AuditTable:
    """List the module types of the model with their plain attributes (heads, experts, dropout)."""
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
    return AuditTable("modules", "Modules of the model, outermost first", ("module", "count", "own parameters", "attributes"), rows)
