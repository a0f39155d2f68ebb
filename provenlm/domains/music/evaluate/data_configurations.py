"""Record what each way to cut the corpus gives to a training.

That is its sequences, their length, the batches, and the range of all token ids.
"""

from typing import Any

import numpy as np

from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.domains.music.evaluate.config import DataConfiguration, MusicEvalConfig
from provenlm.evaluation.arrays import IntArray
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.models.common.objective import IGNORE
from provenlm.training import seq_len_schedule
from provenlm.training.config_sections import SeqLenScheduleConfig
from provenlm.training.dataloader import DataLoader
from provenlm.training.trainer import Trainer

SEQUENCES_PER_READ = 64
COLUMNS = (
    "configuration",
    "sequences",
    "length asked",
    "length got",
    "first batch",
    "last batch",
    "ids",
    "vocabulary",
    "unused ids",
)


def data_configurations_probe(config: MusicEvalConfig) -> Probe:
    """Return the probe that reads one epoch of every configuration."""
    checks: dict[str, Check] = {}
    for name in config.data_configurations:
        checks |= {
            f"{name}.sequences": Check("> 0", "the configuration gives no sequence: the corpus is too small"),
            f"{name}.max_id": Check("< vocab_size", "a token id is outside of the vocabulary: run tokenize again"),
            f"{name}.lost_targets": Check("== 0", "tokens of the corpus never reach the training"),
            f"{name}.seq_len.got": Check(
                "0.9 * seq_len.asked..seq_len.asked", "the training gets sequences of another length than it asked for"
            ),
        }
    return Probe(lambda context, metrics: record_data_configurations(context, metrics, config), checks=checks)


def record_data_configurations(context: EvalContext, metrics: MetricRecorder, config: MusicEvalConfig) -> None:
    """Record sizes, lengths and token ids of every configuration.

    They are read from the data loader of the training, over one whole epoch.
    """
    metrics.add_count("vocab_size", context.tokens.vocab_size, "tokens", "Size of the vocabulary of the corpus")
    rows = []
    for name, configuration in config.data_configurations.items():
        trainer = _make_trainer(context, configuration)
        with metrics.scope(name) as inner:
            rows.append((name, *_record_configuration(inner, context, trainer, configuration)))
    description = "Ways to cut the training split into sequences, each read for one whole epoch"
    metrics.tables.append(AuditTable("configurations", description, COLUMNS, rows))


def _make_trainer(context: EvalContext, configuration: DataConfiguration) -> Trainer:
    """Assemble the training of a configuration; only models of next-token batches have sequences that grow."""
    if context.make_trainer is None:
        raise ValueError("the context must be able to assemble a training, got none")
    schedule = None
    if configuration.start is not None and context.token_batches:
        schedule = SeqLenScheduleConfig(configuration.start, steps=2)
    changes = {"seq_len": configuration.seq_len, "data_packing": configuration.data_packing, "seq_len_schedule": schedule}
    return context.make_trainer(context.model, context.tokens, changes)


def _record_configuration(
    metrics: MetricRecorder, context: EvalContext, trainer: Trainer, configuration: DataConfiguration
) -> tuple[int, int, int, str, str, str, int, int]:
    """Record one configuration and return its row without the name."""
    config, loader = trainer.config, trainer.dataloader
    schedule = config.seq_len_schedule
    shapes = []
    for step in (0, config.total_steps):
        batch: Any = loader.train_batch(0, min(config.global_batch_size, len(loader.sequences)))
        length = seq_len_schedule.seq_len_at_step(schedule, step, config.seq_len)
        batch = batch if schedule is None else seq_len_schedule.split_sequences(batch, length)
        shapes.append((batch.num_sequences, batch.seq_len))
    counts, num_targets, longest = count_ids(loader, context.tokens.vocab_size)
    used = np.flatnonzero(counts)
    got = shapes[-1][1] if context.token_batches else longest
    num_lost = len(context.tokens.train.ids) - len(context.tokens.train.record_ids) - num_targets
    num_unused = context.tokens.vocab_size - int((used < context.tokens.vocab_size).sum())
    metrics.add_count("sequences", len(loader.sequences), "sequences", "Sequences of one epoch")
    metrics.add_count("seq_len.asked", configuration.seq_len, "tokens", "Length of a sequence that the configuration asks for")
    metrics.add_count(
        "seq_len.got", got, "tokens", "Length of the sequences of the last step; of the longest one, where they differ"
    )
    metrics.add_count("seq_len.first", shapes[0][1], "tokens", "Length of the sequences of the first step")
    metrics.add_count("min_id", int(used.min()), "", "Smallest token id of one epoch")
    metrics.add_count("max_id", int(used.max()), "", "Largest token id of one epoch")
    metrics.add_count("unused_ids", num_unused, "tokens", "Ids of the vocabulary that one epoch does not contain")
    metrics.add_count("targets", num_targets, "tokens", "Targets with a loss in one epoch")
    description = "Tokens of the training split, but the first of each piece, that are no target of an epoch"
    metrics.add_count("lost_targets", max(0, num_lost), "tokens", description)
    shape_texts = [" × ".join(map(str, shape)) for shape in shapes]
    span = f"{used.min()} to {used.max()}"
    return (
        len(loader.sequences),
        configuration.seq_len,
        got,
        shape_texts[0],
        shape_texts[1],
        span,
        context.tokens.vocab_size,
        num_unused,
    )


def count_ids(loader: DataLoader, vocab_size: int) -> tuple[IntArray, int, int]:
    """Count every token id among the inputs and targets of one epoch.

    Returns (counts by id, at least `vocab_size` of them; targets with a loss; positions of the longest sequence).
    """
    counts, num_targets, longest = np.zeros(vocab_size, np.int64), 0, 0
    for start in range(0, len(loader.sequences), SEQUENCES_PER_READ):
        batch: Any = loader.batch_at(start, min(SEQUENCES_PER_READ, len(loader.sequences) - start))
        targets = batch.targets_BT[batch.targets_BT != IGNORE]
        for ids in (batch.inputs_BT.flatten().numpy(), targets.numpy()):
            read = np.bincount(ids, minlength=len(counts))
            counts = np.pad(counts, (0, len(read) - len(counts))) + read
        num_targets += len(targets)
        longest = max(longest, batch.seq_len)
    return counts, num_targets, longest
