"""The net before its first step and after its last in, figures on whether it learned anything at all out."""

import math
from dataclasses import replace

import numpy as np
from torch import Tensor, nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import make_windows, sample_documents, token_losses


def improvement_probe(tokens_per_batch: int, min_targets: int) -> Probe:
    """`initial_tokens` is the least number of targets that the untrained net is measured on."""

    def probe(context: EvalContext, metrics: MetricRecorder) -> None:
        initial_model = context.build_untrained().to(context.device).eval()
        split = context.val_or_train_split
        windows = make_windows(split, context.max_seq_len, sample_documents(split, min_targets, context.seed))
        before = token_losses(replace(context, model=initial_model), split, windows, tokens_per_batch, "loss before training")
        after = token_losses(context, split, windows, tokens_per_batch, "loss after training")
        uniform_loss = math.log(context.tokens.vocab_size)
        description = "mean loss of the net built anew with the seed of the training, before its first step"
        metrics.add_measurement("initial_loss", float(before.nats.mean()), "nats/token", description)
        metrics.add_measurement(
            "initial_gap", float(before.nats.mean()) - uniform_loss, "nats/token", "that loss minus ln of the vocabulary"
        )
        improvement = float(np.mean(before.nats - after.nats))
        metrics.add_measurement(
            "fallen", improvement, "nats/token", "loss before training minus loss after it, on the same targets"
        )
        _record_updates(metrics, context.model, initial_model)

    return probe


def _record_updates(metrics: MetricRecorder, model: nn.Module, initial_model: nn.Module) -> None:
    final_params, initial_params = dict(model.named_parameters()), dict(initial_model.named_parameters())
    if final_params.keys() != initial_params.keys():
        raise ValueError(f"the net built anew has other parameters: {sorted(final_params.keys() ^ initial_params.keys())[:3]}")
    trainable = sum(p.numel() for p in final_params.values() if p.requires_grad)
    metrics.add_count("trainable", trainable, "parameters", "parameters that training may move")
    unchanged = [name for name, parameter in final_params.items() if _squared_distance(parameter, initial_params[name]) == 0]
    metrics.add_count("unmoved", len(unchanged), "tensors", "parameter tensors that are bit for bit as before the first step")
    distance = math.sqrt(sum(_squared_distance(p, initial_params[name]) for name, p in final_params.items()))
    initial_norm = math.sqrt(sum(float(p.detach().double().square().sum()) for p in initial_params.values()))
    description = "distance of all parameters from where they began, over the length of where they began"
    metrics.add_measurement("moved", distance / initial_norm, "ratio", description)


def _squared_distance(a: Tensor, b: Tensor) -> float:
    """Squared Euclidean distance."""
    return float((a.detach().double() - b.detach().double()).square().sum())
