"""Provide a corpus of procedural pieces and evaluation contexts of tiny models on it."""

from dataclasses import replace
from functools import cache

import numpy as np
import torch

from provenlm.core.audit import MetricRecorder
from provenlm.data.token_dataset import DatasetSplit, TokenDataset
from provenlm.domains.music.evaluate.config import LatentEvalConfig, MusicEvalConfig, PerformanceConfig
from provenlm.domains.music.evaluate.spec import SPEC
from provenlm.domains.music.tokenize.midi_tokenizer import MidiTokenizer, MidiTokenizerConfig
from provenlm.domains.music.tokenize.spec import SPEC as TOKENIZE
from provenlm.evaluation import assemble
from provenlm.models.music_transformer.config import MusicTransformerConfig
from provenlm.models.music_transformer.spec import SPEC as TRANSFORMER
from provenlm.models.sequence_vae.config import DiscriminatorConfig, LatentPriorConfig, SequenceVAEConfig
from provenlm.models.sequence_vae.spec import SPEC as VAE
from provenlm.training.build_model import init_model
from provenlm.training.checkpoints.checkpoint import LoadedModel, ModelMetadata
from provenlm.training.config import TrainConfig
from tests.domains.music.scores import make_piece

NUM_PIECES, NUM_VAL = 16, 6
TOKENIZER = MidiTokenizer(MidiTokenizerConfig())
BOS, EOS = TOKENIZER.special_tokens["bos"], TOKENIZER.special_tokens["eos"]
TINY = MusicTransformerConfig(
    hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, max_position_embeddings=128
)
TINY_VAE = SequenceVAEConfig(
    hidden_size=16,
    num_encoder_layers=1,
    num_decoder_layers=1,
    num_attention_heads=2,
    intermediate_size=32,
    latent_size=4,
    max_position_embeddings=256,
    kl_warmup_steps=1,
    free_bits=0.0,
    prior=LatentPriorConfig(8, 1, 2, 16),
)
TINY_GAN = replace(TINY_VAE, discriminator=DiscriminatorConfig(num_hidden_layers=1, start_step=0))
TRAIN = TrainConfig(max_steps=20, seq_len=64, global_batch_size=4, threads=1, batches={"augmentation": None})
CONFIG = MusicEvalConfig(
    num_samples=4,
    num_sample_tokens=48,
    num_val_tokens=500,
    data_configurations={},
    performance=PerformanceConfig(seq_lens=(32, 64), num_iters=3, num_warmup=1, num_generated=4),
    latents=LatentEvalConfig(num_sequences=8, num_reconstructions=6, num_pairs=2, num_points=3, num_requests=1, max_new_tokens=32),
)


def make_split(sequences):
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in sequences])]).astype(np.int64)
    names = [str(n) for n in range(len(sequences))]
    ids = np.array([token_id for sequence in sequences for token_id in sequence], np.uint16)
    return DatasetSplit(ids, offsets, names, np.diff(offsets), names)


@cache
def tokenized_pieces(num_pieces):
    """Return the ids of procedural pieces, each between the tokens of its beginning and its end."""
    return [[BOS, *ids.tolist(), EOS] for ids in TOKENIZER.encode([make_piece(seed) for seed in range(num_pieces)])]


@cache
def corpus(num_pieces=NUM_PIECES, num_val=NUM_VAL):
    """Return the tokens of the pieces, the first ones held out."""
    pieces = tokenized_pieces(num_pieces)
    return TokenDataset(
        make_split(pieces[num_val:]),
        make_split(pieces[:num_val]),
        TOKENIZER.vocab_size,
        TOKENIZER.special_tokens,
        TOKENIZER.token_classes,
    )


def make_context(spec, model_config, train_config=TRAIN, model=None, **changes):
    """Return the context that the stage validate makes for a model, untrained unless one is given."""
    tokens = corpus()
    if model is None:
        model = init_model(spec, model_config, tokens.vocab_size, train_config.seed)
    loaded = LoadedModel(
        spec, model_config, model.eval(), ModelMetadata("tiny", vars(model_config), tokens.vocab_size, train_config.seq_len)
    )
    build_small = lambda vocab_size: spec.build(model_config, vocab_size)  # noqa: E731
    case = assemble.make_training_case(spec, tokens, train_config, build_small, TOKENIZE)
    context = assemble.make_eval_context(loaded, tokens, TOKENIZER, case, build_small, train_config.seed, TOKENIZE)
    return replace(context, **changes)


def transformer_context(**changes):
    return make_context(TRANSFORMER, TINY, **changes)


def vae_context(model_config=TINY_VAE, **changes):
    return make_context(VAE, model_config, replace(TRAIN, seq_len=128, batches={"layout": "bars", "augmentation": None}), **changes)


def measure(name, context, config=CONFIG):
    """Run one probe of music; return its metrics by name and the recorder."""
    torch.set_num_threads(1)
    recorder = MetricRecorder()
    SPEC.probes(config)[name].run(context, recorder)
    return {metric: value.value for metric, value in recorder.metrics.items()}, recorder
