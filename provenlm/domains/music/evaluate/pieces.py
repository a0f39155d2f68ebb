"""Draw the sets of pieces that are compared.

They are samples of the model, real pieces, and random tokens.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.data.token_dataset import DatasetSplit
from provenlm.domains.music.content.musical_metrics import STEPS_PER_QUARTER, measure_notes
from provenlm.domains.music.content.score import NoteTable, note_table, read_score
from provenlm.domains.music.evaluate.config import MusicEvalConfig
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer
from provenlm.evaluation.generate import generate
from provenlm.evaluation.probe import EvalContext
from provenlm.models.common.spec import LatentSample
from provenlm.models.generation.latent_generation import LatentStream, generate_from_latents
from provenlm.models.generation.sampling import SamplingConfig

Sequences = list[NDArray[np.int64]]
NUM_TRAINED_SEQUENCES = 8


@dataclass(frozen=True)
class Pieces:
    """Hold the token sequences of a set of pieces.

    Notes and musical metrics are those of the pieces that have any notes.
    """

    sequences: Sequences
    notes: list[NoteTable]
    metrics: list[dict[str, float]]


def music_tokenizer(context: EvalContext) -> MidiTokenizer:
    """Return the tokenizer of the recipe. ValueError if it is not one of music."""
    if not isinstance(context.tokenizer, MidiTokenizer):
        raise ValueError(f"the tokenizer must be a MidiTokenizer, got a {type(context.tokenizer).__name__}")
    return context.tokenizer


def sample_pieces(context: EvalContext, config: MusicEvalConfig) -> Pieces:
    """Generate `num_samples` pieces.

    A piece ends at `eos` or after `num_sample_tokens` tokens.
    A model of next tokens continues `bos`; a model with latents decodes latents from its prior.
    """
    sampling = SamplingConfig(temperature=config.temperature, top_k=0, top_p=config.top_p, repetition_penalty=1.0)
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "music samples"))
    if context.latent is not None:
        sample = context.latent.prior(context.model, config.num_samples, num_trained_latents(context), generator, None)
        outputs = decode_latents(context, sample, sampling, config.num_sample_tokens, generator)
    else:
        prompts = [[context.tokens.special_tokens["bos"]]] * config.num_samples
        outputs = generate(context, prompts, sampling, config.num_sample_tokens, generator)
    return read_pieces(context, [np.array(output, np.int64) for output in outputs])


def decode_latents(
    context: EvalContext, sample: LatentSample, sampling: SamplingConfig, max_new_tokens: int, generator: torch.Generator
) -> list[list[int]]:
    """Generate one sequence of ids from each row of latents.

    ValueError if the model has none.
    """
    if context.latent is None:
        raise ValueError("the model must have latents, got none")
    stream = latent_stream(context)
    return generate_from_latents(context.latent, context.model, sample, stream, sampling, max_new_tokens, generator)


def latent_stream(context: EvalContext) -> LatentStream:
    """Return what ids mean to a model with one latent for each bar."""
    return make_latent_stream(music_tokenizer(context))


def make_latent_stream(tokenizer: MidiTokenizer) -> LatentStream:
    """Return what the ids of a tokenizer mean to a model with one latent for each bar."""
    special = tokenizer.special_tokens
    bars = frozenset(int(token_id) for token_id in tokenizer.token_classes["Bar"])
    return LatentStream(special["bos"], bars, special.get("eos"))


def num_trained_latents(context: EvalContext) -> int:
    """Return the number of latents of the longest of the first training sequences."""
    assert context.latent is not None
    batch = context.train_batch(NUM_TRAINED_SEQUENCES).map(lambda tensor: tensor.to(context.device))
    return int(context.latent.posterior(context.model, batch).is_latent_BN.shape[1])


def real_pieces(context: EvalContext, split: DatasetSplit, config: MusicEvalConfig, label: str) -> Pieces:
    """Draw pieces of a split, each cut to the length of a sample.

    There are as many as samples.
    """
    order = rng.make_rng(context.seed, label).permutation(len(split.record_ids))[: config.num_samples]
    starts = split.doc_offsets[order] + ("bos" in context.tokens.special_tokens)
    ends = np.minimum(split.doc_offsets[order + 1], starts + config.num_sample_tokens)
    return read_pieces(
        context, [np.asarray(split.ids[start:end]).astype(np.int64) for start, end in zip(starts, ends, strict=True)]
    )


def random_pieces(context: EvalContext, config: MusicEvalConfig) -> Pieces:
    """Draw every token from the frequencies of the training split: the floor."""
    ids = np.asarray(context.tokens.train.ids)
    generator = rng.make_rng(context.seed, "random pieces")
    return read_pieces(
        context, [generator.choice(ids, config.num_sample_tokens).astype(np.int64) for _ in range(config.num_samples)]
    )


def read_pieces(context: EvalContext, sequences: Sequences) -> Pieces:
    """Decode sequences and measure those that have notes."""
    tokenizer = music_tokenizer(context)
    tables = [note_table(read_score(tokenizer.decode(ids.tolist())), STEPS_PER_QUARTER) for ids in sequences]
    notes = [table for table in tables if len(table)]
    return Pieces(sequences, notes, [measure_notes(table) for table in notes])
