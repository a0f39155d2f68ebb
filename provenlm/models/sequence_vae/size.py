"""Count the parameters and FLOPs of the sequence VAE in closed form."""

from provenlm.models.common.layers import attention, hierarchical_attention
from provenlm.models.sequence_vae.blocks import num_block_params
from provenlm.models.sequence_vae.config import SequenceVAEConfig
from provenlm.models.sequence_vae.discriminator import num_discriminator_params
from provenlm.models.sequence_vae.prior import num_prior_params

TOKENS_PER_BAR = 32  # of folk tunes and chorales in REMI, for the number of summaries


def num_params(config: SequenceVAEConfig, vocab_size: int) -> dict[str, int]:
    """Count parameters by part; all are `active`."""
    c = config
    block = num_block_params(c.hidden_size, c.intermediate_size, c.attention == "hierarchical")
    norm, num_classes = 2 * c.hidden_size, sum(c.num_attribute_classes)
    parts = {
        "embedding": vocab_size * c.hidden_size,
        "encoder": c.num_encoder_layers * block + norm + 2 * (c.hidden_size + 1) * c.latent_size,
        "decoder": (c.latent_size + 1) * c.hidden_size + c.num_decoder_layers * block + norm + vocab_size * (c.hidden_size + 1),
        "attributes": num_classes * c.hidden_size,
        "prior": 0 if c.prior is None else num_prior_params(c.prior, c.latent_size, tuple(c.num_attribute_classes)),
        "discriminator": 0 if c.discriminator is None else num_discriminator_params(c, c.discriminator.num_hidden_layers),
    }
    total = sum(parts.values())
    return {**parts, "total": total, "active": total}


def flops_per_token(config: SequenceVAEConfig, vocab_size: int, seq_len: int) -> int:
    """Count the FLOPs of one training step of VAE and prior per token.

    2 for each matrix element and pass, plus attention over `seq_len` positions; a backward pass counts as two. A prior adds a pass of the
    encoder. Left out are what happens once a bar (latents, prior), and all that a discriminator adds once it begins: its own passes
    and the samples of the decoder. The FLOPs of a VAE-GAN, and its MFU, are therefore lower bounds.
    """
    c = config
    is_hierarchical = c.attention == "hierarchical"
    block = 2 * _num_block_elements(c, is_hierarchical) + _attention_flops(c, seq_len)
    encoder, decoder = c.num_encoder_layers * block, c.num_decoder_layers * block + 2 * vocab_size * c.hidden_size
    return 3 * (encoder + decoder) + (encoder if c.prior is not None else 0)


def _num_block_elements(config: SequenceVAEConfig, is_hierarchical: bool) -> int:
    d = config.hidden_size
    return (8 if is_hierarchical else 4) * d * d + 2 * d * config.intermediate_size


def _attention_flops(config: SequenceVAEConfig, seq_len: int) -> int:
    if config.attention == "plain":
        return attention.attention_flops(config.hidden_size, seq_len)
    num_bars = max(1, seq_len // TOKENS_PER_BAR)
    return hierarchical_attention.hierarchical_attention_flops(config.hidden_size, seq_len, config.window, num_bars) // 3
