"""A small net of the subject's kind in, figures on whether autograd gives the slopes that finite differences find out."""

from functools import partial

import torch
from torch import Tensor, nn

from provenlm.core import rng
from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes import finite_differences

VOCAB_SIZE, NUM_SEQUENCES, SEQ_LEN = 23, 2, 9
WEIGHT_STD = 0.2  # of the weights: as built, what writes into the residual stream is nought, and hides the slopes behind it


def gradcheck_probe() -> Probe:
    """Every parameter tensor of a seeded small net in float64, for every objective that training has."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        torch.manual_seed(rng.derive_seed(context.seed, "gradients"))
        model = randomize_weights(context.build_small(VOCAB_SIZE)).double().eval()
        tokens_BT = torch.randint(VOCAB_SIZE, (NUM_SEQUENCES, min(SEQ_LEN, context.max_seq_len) + 1))
        parameters = dict(model.named_parameters())
        metrics.add_count(
            "parameters", sum(p.numel() for p in parameters.values()), "parameters", "of the small net that is looked at"
        )
        objectives = list(context.losses(model, tokens_BT[:, :-1], tokens_BT[:, 1:]))
        for name in objectives:
            loss_fn = partial(_objective_loss, context, model, tokens_BT, name)
            with metrics.scope(name) as inner:
                _record_gradcheck(
                    inner,
                    finite_differences.compare_gradients(loss_fn, parameters, rng.derive_seed(context.seed, "elements")),
                    name,
                )

    return probe


def randomize_weights(model: nn.Module) -> nn.Module:
    """The same with every parameter drawn anew: vectors around one, the rest around nought."""
    for parameter in model.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, WEIGHT_STD)
    return model


def _objective_loss(context: EvalContext, model: nn.Module, tokens_BT: Tensor, name: str) -> Tensor:
    return context.losses(model, tokens_BT[:, :-1], tokens_BT[:, 1:])[name]


def _record_gradcheck(metrics: MetricRecorder, result: finite_differences.GradcheckResult, objective: str) -> None:
    comparisons, worst = result.comparisons, result.worst
    method = "autograd against central differences in float64"
    metrics.add_count("tensors", len(comparisons), "tensors", "parameter tensors whose gradients were compared, one by one")
    num_checked = sum(s.num_checked for s in comparisons)
    metrics.add_count(
        "elements", num_checked, "parameters", "moved one by one; larger tensors were also moved whole, along a direction"
    )
    metrics.add_count(
        "flat", len(result.zero_gradient), "tensors", "parameter tensors that do not move the loss at all, by either way"
    )
    metrics.add_measurement("relative_error", result.relative_error, "ratio", f"of the whole net's gradient: {method}")
    metrics.add_measurement("cosine", result.cosine, "", f"between the whole net's gradients: {method}")
    metrics.add_measurement("largest_relative_error", worst.relative_error, "ratio", f"of a single tensor, {worst.name}: {method}")
    metrics.add_measurement("smallest_cosine", result.min_cosine, "", f"of a single tensor: {method}")
    metrics.tables.append(
        finite_differences.comparison_table(result, "tensors", f"gradients of the objective {objective}: {method}")
    )
