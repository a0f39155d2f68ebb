"""Count the parameters of a built model and compare them with the analytic count."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn

from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe


@dataclass(frozen=True)
class CountOnlyModel:
    """Hold a model whose parameters are counted.

    `build` is called on the meta device, `analytic_counts` come from formulas.
    """

    build: Callable[[], nn.Module]
    analytic_counts: Mapping[str, int]


def param_count_probes(count_only_models: Mapping[str, CountOnlyModel]) -> Mapping[str, Probe]:
    """Return the probes that count parameters.

    They count those of the evaluated model and of each of `count_only_models`.
    """

    def count(context: EvalContext, metrics: MetricRecorder) -> None:
        _record_counts(metrics, "", " of the model", context.model, context.analytic_counts)
        metrics.tables += [_part_table(context.analytic_counts), _tensor_table(context.model), _module_table(context.model)]

    def count_active(context: EvalContext, metrics: MetricRecorder) -> None:
        active = active_params(context)
        description = (
            "Active parameters: those with a gradient in the backward pass of one token (experts of a stack count one by one)"
        )
        metrics.add_measurement("measured", active, "parameters", description)
        difference, description = active - context.analytic_counts["active"], "Measured minus analytic count of active parameters"
        metrics.add_count("count_minus_analytic", difference, "parameters", description)

    def count_others(context: EvalContext, metrics: MetricRecorder) -> None:
        for name, count_only_model in count_only_models.items():
            with torch.device("meta"):
                label = f" of the shape {name}, which was not trained"
                _record_counts(metrics, f"{name}.", label, count_only_model.build(), count_only_model.analytic_counts)

    counts_differ = "the model and its analytic parameter count differ: one of them is wrong"
    routing_differs = "routing uses another number of experts than the analytic parameter count"
    return {
        "params": Probe(
            count,
            checks={
                "trainable": Check("> 0", "every parameter is frozen: nothing can be trained"),
                "count_minus_analytic.total": Check("== 0", counts_differ),
            },
        ),
        "params.active": Probe(
            count_active, frozenset({"next_token_logits"}), {"count_minus_analytic": Check("== 0", routing_differs)}
        ),
        "params.reference_models": Probe(count_others, frozenset({"count_only_models"})),
    }


def _record_counts(metrics: MetricRecorder, prefix: str, label: str, model: nn.Module, analytic_counts: Mapping[str, int]) -> None:
    """Record total and trainable parameters of `model` and its analytic counts."""
    unique_params = list(model.parameters())  # a shared tensor occurs once
    total = sum(p.numel() for p in unique_params)
    metrics.add_count(f"{prefix}total", total, "parameters", f"Parameters{label}; shared tensors count once")
    trainable = sum(p.numel() for p in unique_params if p.requires_grad)
    metrics.add_count(f"{prefix}trainable", trainable, "parameters", f"Trainable parameters{label}")
    metrics.add_count(f"{prefix}analytic.total", analytic_counts["total"], "parameters", f"Parameters{label}, by formula")
    size = sum(p.numel() * p.element_size() for p in unique_params)
    metrics.add_count(f"{prefix}bytes", size, "bytes", f"Size of the parameters{label}")
    description = f"Active parameters per token{label}, by formula"
    metrics.add_count(f"{prefix}analytic.active", analytic_counts["active"], "parameters", description)
    metrics.add_count(
        f"{prefix}count_minus_analytic.total",
        total - analytic_counts["total"],
        "parameters",
        f"Counted minus analytic parameters{label}",
    )


def active_params(context: EvalContext) -> int:
    """Count the parameters that the backward pass of the logits of one token reaches.

    In a tensor of three or more dimensions (a stack of experts) each slice counts if its gradient is not 0. Other tensors count
    as a whole, because for one token a gradient may vanish although the tensor was used.
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
    """List the tensors of the model.

    Tensors that differ in the layer number only share a line.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for name, parameter in model.named_parameters():
        key = (re.sub(r"\.\d+\.", ".*.", f".{name}")[1:], " × ".join(map(str, parameter.shape)) or "1")
        groups.setdefault(key, []).append(parameter.numel())
    rows = [(name, shape, len(sizes), sum(sizes)) for (name, shape), sizes in groups.items()]
    return AuditTable("tensors", "Parameters of the model by tensor", ("tensor", "shape", "count", "parameters"), rows)


def _module_table(model: nn.Module) -> AuditTable:
    """List the module types of the model with their plain attributes."""
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
