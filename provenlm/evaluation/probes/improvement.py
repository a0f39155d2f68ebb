"""Compare the trained model with its initial state: loss and parameters."""

import math
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import make_windows, sample_documents, token_losses


def improvement_probe(tokens_per_batch: int, min_targets: int) -> Probe:
    """Compare losses on at least `min_targets` targets before and after training, and the parameters."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        initial_model = context.build_untrained().to(context.device).eval()
        split = context.val_or_train_split
        windows = make_windows(split, context.max_seq_len, sample_documents(split, min_targets, context.seed))
        before = token_losses(replace(context, model=initial_model), split, windows, tokens_per_batch, "loss before training")
        after = token_losses(context, split, windows, tokens_per_batch, "loss after training")
        uniform_loss = math.log(context.tokens.vocab_size)
        description = "Loss at initialisation, of the model rebuilt with the seed of the training"
        metrics.add_measurement("init_loss", float(before.nats.mean()), "nats/token", description)
        metrics.add_measurement(
            "init_loss_minus_uniform",
            float(before.nats.mean()) - uniform_loss,
            "nats/token",
            "Loss at initialisation minus ln(vocab_size)",
        )
        improvement = float(np.mean(before.nats - after.nats))
        metrics.add_measurement(
            "loss_improvement", improvement, "nats/token", "Loss at initialisation minus loss after training, on the same targets"
        )
        _record_updates(metrics, context.model, initial_model)

    return probe


def _record_updates(metrics: MetricRecorder, model: nn.Module, initial_model: nn.Module) -> None:
    """Record how far training changed the parameters."""
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
