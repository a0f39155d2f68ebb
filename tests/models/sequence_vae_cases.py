"""Build tiny VAEs and batches for the tests of the sequence VAE."""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from provenlm.models.sequence_vae.config import DiscriminatorConfig, LatentPriorConfig, SequenceVAEConfig
from provenlm.models.sequence_vae.model import build_sequence_vae

VOCAB_SIZE, PAD, BOS, EOS, BAR = 12, 0, 1, 2, 3
IGNORE = -100
PRIOR = LatentPriorConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
TINY = SequenceVAEConfig(
    hidden_size=16,
    num_encoder_layers=1,
    num_decoder_layers=2,
    num_attention_heads=2,
    intermediate_size=32,
    latent_size=4,
    max_position_embeddings=64,
    kl_warmup_steps=4,
    num_attribute_classes=(3, 3),
    prior=PRIOR,
)
GAN = replace(TINY, discriminator=DiscriminatorConfig(num_hidden_layers=1, start_step=0, temperature_steps=4))


@dataclass(frozen=True)
class SegmentBatch:
    """Hold what the model needs of a batch of bars."""

    inputs_BT: Tensor
    targets_BT: Tensor
    bars_BT: Tensor
    attributes_BNA: Tensor

    @property
    def num_sequences(self):
        return len(self.inputs_BT)

    @property
    def seq_len(self):
        return self.inputs_BT.shape[1]

    @property
    def num_targets(self):
        return int((self.targets_BT != IGNORE).sum())

    def map(self, fn):
        return SegmentBatch(fn(self.inputs_BT), fn(self.targets_BT), fn(self.bars_BT), fn(self.attributes_BNA))

    def select(self, sequences):
        return self.map(lambda tensor: tensor[sequences])


def make_batch(num_sequences=3, num_bars=3, notes=4, seed=0, pad=2) -> SegmentBatch:
    """Return pieces of bars of random notes; the last `pad` targets of every second piece are missing."""
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for _ in range(num_sequences):
        row = [BOS]
        for _ in range(num_bars):
            row += [BAR, *torch.randint(4, VOCAB_SIZE, (notes,), generator=generator).tolist()]
        rows.append([*row, EOS])
    ids_BT = torch.tensor(rows)
    inputs_BT, targets_BT = ids_BT[:, :-1].clone(), ids_BT[:, 1:].clone()
    bars_BT = ((inputs_BT == BAR).cumsum(1) - 1).clamp(min=0)
    if pad:
        inputs_BT[1::2, -pad:], targets_BT[1::2, -pad:] = PAD, IGNORE
    attributes_BNA = torch.randint(1, 3, (num_sequences, num_bars, 2), generator=generator)
    return SegmentBatch(inputs_BT, targets_BT, bars_BT, attributes_BNA)


def make_vae(config=TINY, seed=0, spread=0.3):
    """Return a VAE whose weights are all random, as after training: as initialized, latents have no influence."""
    torch.manual_seed(seed)
    model = build_sequence_vae(config, VOCAB_SIZE)
    for name, parameter in model.named_parameters():
        if parameter.ndim > 1 and not name.startswith("discriminator."):
            torch.nn.init.normal_(parameter, 0.0, spread)
    return model
