"""Compare the trained model with its initial state: loss and parameters."""

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from torch import Tensor

from provenlm.core.audit import Check, MetricRecorder
from provenlm.data.token_dataset import DatasetSplit
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import EvalWindows, TokenLosses, make_windows, sample_documents, token_losses


def improvement_probes(tokens_per_batch: int, min_targets: int) -> Mapping[str, Probe]:
    """Return the probes that compare the model before and after training.

    They compare losses on at least `min_targets` targets, and parameters.
    """

    def initial_losses(context: EvalContext) -> TokenLosses:
        initial_model = context.build_untrained().to(context.device).eval()
        split, windows = _sample(context, min_targets)
        return token_losses(replace(context, model=initial_model), split, windows, tokens_per_batch, "loss before training")

    def initialization(context: EvalContext, metrics: MetricRecorder) -> None:
        loss = float(initial_losses(context).nats.mean())
        difference = loss - math.log(context.tokens.vocab_size)
        metrics.add_measurement("loss_minus_uniform", difference, "nats/token", "Loss at initialization minus ln(vocab_size)")

    def improvement(context: EvalContext, metrics: MetricRecorder) -> None:
        before = initial_losses(context)
        after = token_losses(context, *_sample(context, min_targets), tokens_per_batch, "loss after training")
        description = "Loss before training, of the model rebuilt with the seed of the training"
        metrics.add_measurement("init_loss", float(before.nats.mean()), "nats/token", description)
        description = "Loss before training minus loss after training, on the same targets"
        metrics.add_measurement("loss_improvement", float(np.mean(before.nats - after.nats)), "nats/token", description)

    hint = "the initial loss is far from ln(vocab_size): check the initialization"
    needs = frozenset({"next_token_logits"})
    return {
        "initialization": Probe(initialization, needs | {"random_init"}, {"loss_minus_uniform": Check("-0.5..0.5", hint)}),
        "improvement": Probe(improvement, needs),
        "updates": Probe(_record_updates),
    }


def _sample(context: EvalContext, min_targets: int) -> tuple[DatasetSplit, EvalWindows]:
    split = context.val_or_train_split
    return split, make_windows(split, context.max_seq_len, sample_documents(split, min_targets, context.seed))


def _record_updates(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record how far training changed the parameters."""
    model, initial_model = context.model, context.build_untrained().to(context.device)
    final_params, initial_params = dict(model.named_parameters()), dict(initial_model.named_parameters())
    if final_params.keys() != initial_params.keys():
        raise ValueError(
            f"initial and trained model must have the same parameters, got {sorted(final_params.keys() ^ initial_params.keys())[:3]} in one"
        )
    trainable = sum(p.numel() for p in final_params.values() if p.requires_grad)
    metrics.add_count("trainable_params", trainable, "parameters", "Trainable parameters of the model")
    unchanged = [name for name, parameter in final_params.items() if _squared_distance(parameter, initial_params[name]) == 0]
    metrics.add_count(
        "unchanged_tensors", len(unchanged), "tensors", "Parameter tensors that are bit-identical to their initial values"
    )
    distance = math.sqrt(sum(_squared_distance(p, initial_params[name]) for name, p in final_params.items()))
    initial_norm = math.sqrt(sum(float(p.detach().double().square().sum()) for p in initial_params.values()))
    description = "Norm of the change of all parameters during training relative to the norm of their initial values"
    metrics.add_measurement("relative_update", distance / initial_norm, "ratio", description)


def _squared_distance(a: Tensor, b: Tensor) -> float:
    """Return the squared Euclidean distance."""
    return float((a.detach().double() - b.detach().double()).square().sum())
