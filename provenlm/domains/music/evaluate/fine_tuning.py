"""Compare a fine-tuned model with the base model that it started from.

It was fine-tuned on a few pieces, such as those of one composer.
Fine-tuning on a small set must lower the loss on held-out pieces of the set and may not turn samples into copies of its pieces.
"""

from dataclasses import replace

import numpy as np

from provenlm.core.audit import Check, MetricRecorder
from provenlm.domains.music.evaluate.config import MusicEvalConfig
from provenlm.domains.music.evaluate.pieces import real_pieces, sample_pieces
from provenlm.domains.music.evaluate.sample_quality import copy_ratios, split_hashes
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.token_loss import make_windows, token_losses


def fine_tuning_probe(config: MusicEvalConfig) -> Probe:
    """Return the probe that compares the model with its base model."""
    return Probe(
        lambda context, metrics: record_fine_tuning(context, metrics, config),
        frozenset({"next_token_logits", "validation_split", "base_model"}),
        {
            "val.in_base_training": Check(
                "== 0",
                "the base model was trained on held-out pieces: the same `filter`, `dedupe` and `val_fraction` for both corpora",
            ),
            "after.loss": Check(
                "< before.loss", "fine-tuning did not help on held-out pieces: fewer steps, or lower learning rates"
            ),
            "after.copied": Check(
                "<= human.copied_p95", "fine-tuned samples copy the pieces of the set: fewer steps, or more pieces"
            ),
        },
    )


def record_fine_tuning(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig) -> None:
    """Record losses and copy rates of the base model and of the fine-tuned one.

    Losses are on held-out pieces, copy rates of samples.
    """
    base = replace(context, model=context.build_untrained().to(context.device).eval())
    val = context.tokens.val
    hashes = split_hashes(context, context.tokens.train)
    metrics.add_count("pieces", len(context.tokens.train.record_ids), "pieces", "Pieces that the model was fine-tuned on")
    metrics.add_count("val.pieces", len(val.record_ids), "pieces", "Held-out pieces of the set")
    if context.base_training_records is not None:  # unknown for weights from elsewhere: the check is then NOT RUN
        num_leaked = sum(record_id in context.base_training_records for record_id in val.record_ids)
        metrics.add_count(
            "val.in_base_training", num_leaked, "pieces", "Held-out pieces of the set that the base model was trained on"
        )
    fraction = "Fraction of six-note patterns of a melody that occur in the pieces of the fine-tuning"
    for name, label, variant in (("before", "base model", base), ("after", "fine-tuned model", context)):
        windows = make_windows(val, context.max_seq_len, np.arange(len(val.record_ids)))
        losses = token_losses(variant, val, windows, config.tokens_per_batch, f"loss {name} fine-tuning")
        metrics.add_measurement(f"{name}.loss", float(losses.nats.mean()), "nats/token", f"Mean loss on held-out pieces: {label}")
        ratios = copy_ratios(sample_pieces(variant, config), hashes)
        metrics.add_measurement(
            f"{name}.copied", _mean(ratios, f"samples of the {label}"), "fraction", f"{fraction}: mean of samples of the {label}"
        )
    human = copy_ratios(real_pieces(context, val, config, "human pieces"), hashes)
    metrics.add_measurement(
        "human.copied", _mean(human, "held-out human pieces"), "fraction", f"{fraction}: mean of held-out human pieces"
    )
    percentile = float(np.quantile(human, 0.95))
    metrics.add_measurement("human.copied_p95", percentile, "fraction", f"{fraction}: 95th percentile of held-out human pieces")


def _mean(ratios: list[float], label: str) -> float:
    """Return the mean of copy ratios. ValueError for none."""
    if not ratios:
        raise ValueError(f"{label}: at least one must have a melody of six notes, got none")
    return float(np.mean(ratios))
