"""Measure which modules the gradient of each loss term reaches.

A term that is computed and logged need not train anything: it may be detached, or missing from the sum that is minimised. Each term is
differentiated by itself, and its weight in the minimised loss is recovered from the gradients by least squares.
"""

import copy
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from provenlm.core import rng
from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.evaluation.arrays import FloatArray
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.common.objective import Batch, Objective

NUM_SEQUENCES = 4
LOSS = "loss"
MIN_SHARE = 1e-9  # of the gradient: a term with less is inert

Gradients = Mapping[str, Tensor]  # by parameter name; a parameter without a gradient is missing


@dataclass(frozen=True)
class TermReach:
    """Hold the gradient norms of one term by leaf module.

    `share` is the norm of the weighted gradient of the term relative to the norm of the gradient of the loss.
    """

    norms: Mapping[str, float]
    total_norm: float
    share: float


@dataclass(frozen=True)
class ObjectiveReach:
    """Hold what the gradients of an objective reach.

    `terms` includes `loss`; `rest` is the norm of the part of the loss gradient that no named term explains, relative to the whole.
    """

    name: str
    terms: Mapping[str, TermReach]
    rest: float
    trained_modules: Sequence[str]

    @property
    def inert_terms(self) -> list[str]:
        """Return the terms without a gradient or without weight in the loss."""
        return [f"{self.name}.{name}" for name, term in self.terms.items() if not (term.total_norm > 0 and term.share > MIN_SHARE)]

    @property
    def unreached_modules(self) -> list[str]:
        """Return the trained modules that the gradient of the loss does not reach."""
        return [module for module in self.trained_modules if not self.terms[LOSS].norms.get(module, 0.0) > 0]


def gradient_reach_probe() -> Probe:
    """Return the probe of every objective's loss terms."""
    checks = {
        "inert_terms": Check("== 0", "a loss term trains nothing: it is detached, or not part of the minimised loss"),
        "unreached_modules": Check("== 0", "a module has no gradient: it is not used, or the graph is cut in front of it"),
        "untrained_params": Check("== 0", "no objective trains these parameters: list them in its param_groups, or freeze them"),
    }
    return Probe(record_gradient_reach, checks=checks)


def record_gradient_reach(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record the reach of each term of each objective on a training batch."""
    if context.objectives is None:
        raise ValueError("the context must have the objectives of the training, got none")
    model = copy.deepcopy(context.model).train()  # a pass in training mode may change buffers
    batch = context.train_batch(NUM_SEQUENCES).map(lambda tensor: tensor.to(context.device))
    with torch.random.fork_rng(), torch.enable_grad():
        torch.manual_seed(rng.derive_seed(context.seed, "gradient reach"))
        reaches = [measure_reach(model, objective, batch) for objective in context.objectives(model)]
    for reach in reaches:
        with metrics.scope(reach.name) as inner:
            _record_objective(inner, reach, model)
    terms = [f"{reach.name}.{name}" for reach in reaches for name in reach.terms]
    metrics.add_count("num_terms", len(terms), "terms", f"Loss terms that were differentiated by themselves: {', '.join(terms)}")
    inert = [name for reach in reaches for name in reach.inert_terms]
    metrics.add_count("inert_terms", len(inert), "terms", _list("Loss terms that move no parameter", inert))
    unreached = [f"{reach.name}: {module}" for reach in reaches for module in reach.unreached_modules]
    description = "Modules that an objective trains and its gradient does not reach"
    metrics.add_count("unreached_modules", len(unreached), "modules", _list(description, unreached))
    untrained = untrained_params(model, context.objectives(model))
    description = "Trainable parameters that no objective trains"
    metrics.add_count("untrained_params", sum(untrained.values()), "parameters", _list(description, list(untrained)))


def measure_reach(model: nn.Module, objective: Objective, batch: Batch) -> ObjectiveReach:
    """Differentiate the terms of an objective on a batch, in one pass.

    ValueError if the loss lacks a term that the objective names.
    """
    values = objective.loss(batch)
    if missing := [name for name in (*objective.terms, LOSS) if name not in values]:
        raise ValueError(
            f"the loss of objective {objective.name} must have the terms {', '.join(missing)}, got {', '.join(values)}"
        )
    trained_ids = {id(parameter) for group in objective.param_groups.values() for parameter in group}
    trained_names = [
        name for name, parameter in model.named_parameters() if id(parameter) in trained_ids and parameter.requires_grad
    ]
    gradients = {name: _gradients(model, values[name]) for name in (*objective.terms, LOSS)}
    shares, rest = _explain(gradients, trained_names) if objective.terms else ({}, 0.0)
    terms = {
        name: TermReach(_module_norms(gradients[name]), _norm(gradients[name], trained_names), shares.get(name, 1.0))
        for name in gradients
    }
    return ObjectiveReach(objective.name, terms, rest, list(dict.fromkeys(_module_of(name) for name in trained_names)))


def untrained_params(model: nn.Module, objectives: Sequence[Objective]) -> dict[str, int]:
    """Return the trainable tensors that no objective trains, with their sizes."""
    trained = {id(p) for objective in objectives for group in objective.param_groups.values() for p in group}
    return {name: p.numel() for name, p in model.named_parameters() if p.requires_grad and id(p) not in trained}


def _gradients(model: nn.Module, value: Tensor) -> Gradients:
    """Return the gradients of a term; none for a term without a graph."""
    parameters = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not value.requires_grad:
        return {}
    slopes = torch.autograd.grad(value, list(parameters.values()), retain_graph=True, allow_unused=True)
    return {name: slope.detach() for name, slope in zip(parameters, slopes, strict=True) if slope is not None}


def _explain(gradients: Mapping[str, Gradients], trained_names: Sequence[str]) -> tuple[dict[str, float], float]:
    """Write the gradient of the loss as a weighted sum of those of its terms.

    Returns the share of each term and that of the rest, by least squares on terms scaled to norm 1.
    """
    names = [name for name in gradients if name != LOSS]
    norms = {name: _norm(gradients[name], trained_names) for name in gradients}
    if not norms[LOSS] > 0:
        return dict.fromkeys((*names, LOSS), 0.0), 0.0
    scaled = [name for name in names if norms[name] > 0]

    def cosine(first: str, second: str) -> float:
        return _dot(gradients[first], gradients[second], trained_names) / (norms[first] * norms[second])

    gram: FloatArray = np.array([[cosine(first, second) for second in scaled] for first in scaled]).reshape(len(scaled), -1)
    projection: FloatArray = np.array([cosine(name, LOSS) for name in scaled])
    coefficients = np.linalg.lstsq(gram, projection, rcond=1e-10)[0] if scaled else projection
    rest = math.sqrt(max(0.0, 1 - float(coefficients @ projection)))
    shares = {name: abs(float(value)) for name, value in zip(scaled, coefficients, strict=True)}
    return {**dict.fromkeys(names, 0.0), **shares, LOSS: 1.0}, rest


def _dot(first: Gradients, second: Gradients, names: Sequence[str]) -> float:
    return sum(float((first[name].double() * second[name].double()).sum()) for name in names if name in first and name in second)


def _norm(gradients: Gradients, names: Sequence[str]) -> float:
    return math.sqrt(_dot(gradients, gradients, names))


def _module_norms(gradients: Gradients) -> dict[str, float]:
    squares: dict[str, float] = {}
    for name, gradient in gradients.items():
        squares[_module_of(name)] = squares.get(_module_of(name), 0.0) + float(gradient.double().square().sum())
    return {module: math.sqrt(value) for module, value in squares.items()}


def _module_of(parameter_name: str) -> str:
    """Return the name of the module that owns a parameter; a parameter of the model itself is a module of its own."""
    return parameter_name.rpartition(".")[0] or parameter_name


def _block_of(module: str) -> str:
    """Return the block that a module belongs to: its name up to the first number, else up to the first dot."""
    match = re.match(r"(.*?\.\d+)(\.|$)", module)
    return match[1] if match else module.partition(".")[0]


def _record_objective(metrics: MetricRecorder, reach: ObjectiveReach, model: nn.Module) -> None:
    for name, term in reach.terms.items():
        description = f"Norm of the gradient of {name} by the parameters of objective {reach.name}, on a training batch"
        metrics.add_measurement(f"{name}.grad_norm", term.total_norm, "", description)
        if name != LOSS:
            description = f"Norm of the gradient of {name} as weighted in the minimised loss, relative to that of the loss"
            metrics.add_measurement(f"{name}.share", term.share, "ratio", description)
    if len(reach.terms) > 1:
        description = "Norm of the part of the gradient of the loss that its named terms do not explain, relative to the whole"
        metrics.add_measurement("rest.share", reach.rest, "ratio", description)
    metrics.tables.append(_reach_table(reach, model))


def _reach_table(reach: ObjectiveReach, model: nn.Module) -> AuditTable:
    """List the blocks that the objective trains or reaches, with the gradient norm of each term."""
    sizes: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        block = _block_of(_module_of(name))
        sizes[block] = sizes.get(block, 0) + parameter.numel()
    norms = {name: _block_norms(term.norms) for name, term in reach.terms.items()}
    trained = {_block_of(module) for module in reach.trained_modules}
    blocks = [block for block in sizes if block in trained or any(column.get(block, 0.0) > 0 for column in norms.values())]
    rows = [
        (block, sizes[block], "yes" if block in trained else "no", *(float(f"{norms[name].get(block, 0.0):.4g}") for name in norms))
        for block in blocks
    ]
    description = f"Gradient norm of each term of objective {reach.name} by block: 0 where no gradient arrives"
    return AuditTable("reach", description, ("block", "parameters", "trained by it", *norms), rows)


def _block_norms(module_norms: Mapping[str, float]) -> dict[str, float]:
    squares: dict[str, float] = {}
    for module, norm in module_norms.items():
        squares[_block_of(module)] = squares.get(_block_of(module), 0.0) + norm**2
    return {block: math.sqrt(value) for block, value in squares.items()}


def _list(description: str, names: Sequence[str]) -> str:
    """Name the first few of those that a count counts."""
    suffix = f", and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{description}: {', '.join(names[:8]) or 'none'}{suffix}"
