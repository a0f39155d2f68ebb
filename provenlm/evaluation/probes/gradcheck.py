"""Compare autograd with finite differences on a small model.

A model may stop gradients on purpose. It declares this by a module with the attribute `stops_gradient`, whose output is held constant in
the finite differences; a tensor that is detached anywhere else is a fault.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core import rng
from provenlm.core.audit import Check, MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes import finite_differences
from provenlm.models.common.objective import Batch, Objective, TokenBatch

VOCAB_SIZE, NUM_SEQUENCES, SEQ_LEN = 23, 2, 9
MAX_ELEMENTS_OF_REAL_BATCHES = 3  # of a tensor: a loss on whole training sequences takes longer
NUM_TRAINING_PASSES = 10  # after which buffers that follow the weights, such as singular vectors, fit the random ones
WEIGHT_STD = 0.2  # as initialized, the output projections are 0 and hide the gradients behind them


def gradcheck_probe() -> Probe:
    """Return the probe that checks the gradients of every training objective.

    It checks every parameter tensor of a small float64 model, with the objectives that are active at the end of the training.
    """

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        torch.manual_seed(rng.derive_seed(context.seed, "gradients"))
        vocab_size = VOCAB_SIZE if context.token_batches else context.tokens.vocab_size
        model = randomize_weights(context.build_small(vocab_size))
        copy_training_state(context.model, model)
        model.double()
        batch = _make_batch(context)
        with torch.no_grad():
            for _ in range(NUM_TRAINING_PASSES):
                context.losses(model.train(), batch)
        model.eval()
        parameters = dict(model.named_parameters())
        num_params = sum(p.numel() for p in parameters.values())
        metrics.add_count("num_params", num_params, "parameters", "Parameters of the small model under gradcheck")
        stops = [name for name, module in model.named_modules() if _stops_gradient(module)]
        description = f"Modules that stop gradients on purpose, held constant in finite differences: {', '.join(stops) or 'none'}"
        metrics.add_count("num_stops", len(stops), "modules", description)
        results = {}
        trained = None if context.objective_params is None else context.objective_params(model)
        max_elements = finite_differences.MAX_ELEMENTS if context.token_batches else MAX_ELEMENTS_OF_REAL_BATCHES
        objectives = {} if context.objectives is None else {o.name: o for o in context.objectives(model)}
        for name in list(context.losses(model, batch)):
            ids = None if trained is None else {id(parameter) for parameter in trained[name]}
            checked = {key: parameter for key, parameter in parameters.items() if ids is None or id(parameter) in ids}
            loss_fn = hold_stopped(model, partial(_objective_loss, context, model, batch, name, objectives.get(name)))
            seed = rng.derive_seed(context.seed, "elements")
            results[name] = finite_differences.compare_gradients(loss_fn, checked, seed, max_elements)
            with metrics.scope(name) as inner:
                _record_gradcheck(inner, results[name], name)
        max_error = max(result.worst.relative_error for result in results.values())
        description = "Largest relative error between autograd and finite-difference gradients over all objectives and tensors"
        metrics.add_measurement("max_relative_error", max_error, "ratio", description)
        min_cosine = min(result.min_cosine for result in results.values())
        description = "Smallest cosine similarity of autograd and finite-difference gradients over all objectives and tensors"
        metrics.add_measurement("min_cosine", min_cosine, "", description)

    checks = {
        "max_relative_error": Check("< 1e-5", "a gradient of the model is scaled or detached: the table of tensors shows where"),
        "min_cosine": Check("> 0.999999", "a gradient of the model has a wrong direction: the table of tensors shows where"),
    }
    return Probe(probe, checks=checks)


def _make_batch(context: EvalContext) -> Batch:
    """Return a batch of random tokens, or one training sequence in float64.

    The latter if the model does not train on next-token batches.
    """
    if context.token_batches:
        tokens_BT = torch.randint(VOCAB_SIZE, (NUM_SEQUENCES, min(SEQ_LEN, context.max_seq_len) + 1))
        return TokenBatch(tokens_BT[:, :-1], tokens_BT[:, 1:])
    return context.train_batch(1).map(lambda tensor: tensor.double() if tensor.is_floating_point() else tensor)


def randomize_weights(model: nn.Module) -> nn.Module:
    """Draw every parameter from a normal distribution and return the model.

    Vectors have the mean 1, other tensors 0.
    """
    for parameter in model.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, WEIGHT_STD)
    return model


def copy_training_state(source: nn.Module, target: nn.Module) -> None:
    """Copy the scalar buffers: counters of updates and weights of loss terms.

    An objective that starts late, or a term with a schedule, is then as active as at the end of the training. Buffers with axes belong to
    the weights or the size of a model and are left.
    """
    buffers = dict(source.named_buffers())
    for name, buffer in target.named_buffers():
        if buffer.ndim == 0 and name in buffers:
            buffer.copy_(buffers[name])


def hold_stopped(model: nn.Module, scalar_fn: Callable[[], Tensor]) -> Callable[[], Tensor]:
    """Hold the outputs of modules that stop gradients, from the first call on.

    Later calls of the returned function must run these modules in the same order.
    """
    held: list[Tensor] = []

    def run() -> Tensor:
        is_first, outputs = not held, iter(list(held))

        def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            if is_first:
                held.append(output.detach().clone())  # the output may be a view of a parameter, which is then perturbed
                return output
            return next(outputs)

        handles = [module.register_forward_hook(hook) for module in model.modules() if _stops_gradient(module)]
        try:
            return scalar_fn()
        finally:
            for handle in handles:
                handle.remove()

    return run


def _stops_gradient(module: nn.Module) -> bool:
    return getattr(module, "stops_gradient", False) is True


def _objective_loss(context: EvalContext, model: nn.Module, batch: Batch, name: str, objective: Objective | None) -> Tensor:
    """Compute the loss of one objective alone, where the context has objectives: others would double the time."""
    return context.losses(model, batch)[name] if objective is None else objective.loss(batch)["loss"]


def _record_gradcheck(metrics: MetricRecorder, result: finite_differences.GradcheckResult, objective: str) -> None:
    comparisons, worst = result.comparisons, result.worst
    method = "autograd against central differences in float64"
    metrics.add_count("num_tensors", len(comparisons), "tensors", "Parameter tensors whose gradients were compared")
    num_checked = sum(s.num_checked for s in comparisons)
    metrics.add_count(
        "num_elements",
        num_checked,
        "parameters",
        "Elements that were perturbed one by one; larger tensors were also perturbed along a random direction",
    )
    metrics.add_count(
        "zero_gradient_tensors",
        len(result.zero_gradient),
        "tensors",
        "Parameter tensors whose gradient is 0 both by autograd and by finite differences",
    )
    metrics.add_measurement(
        "relative_error", result.relative_error, "ratio", f"Relative error of the gradient of the whole model: {method}"
    )
    metrics.add_measurement("cosine", result.cosine, "", f"Cosine similarity of the gradients of the whole model: {method}")
    metrics.add_measurement(
        "max_relative_error",
        worst.relative_error,
        "ratio",
        f"Largest relative error of the gradient of a tensor, {worst.name}: {method}",
    )
    metrics.add_measurement(
        "min_cosine", result.min_cosine, "", f"Smallest cosine similarity of the gradients of a tensor: {method}"
    )
    metrics.tables.append(
        finite_differences.comparison_table(result, "tensors", f"Gradients of the objective {objective} by tensor: {method}")
    )
