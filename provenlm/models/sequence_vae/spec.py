"""Export the sequence VAE as a plug-in."""

from torch import nn

from provenlm.models.common.base_weights import load_base_weights
from provenlm.models.common.layers.block_stack import BlockStack
from provenlm.models.common.spec import ModelSpec
from provenlm.models.sequence_vae.config import SequenceVAEConfig
from provenlm.models.sequence_vae.latent import LATENT
from provenlm.models.sequence_vae.losses import objectives
from provenlm.models.sequence_vae.model import SequenceVAE, build_sequence_vae
from provenlm.models.sequence_vae.size import flops_per_token, num_params


def decoder_blocks(model: nn.Module) -> BlockStack:
    """Return the blocks of the decoder."""
    assert isinstance(model, SequenceVAE)
    return model.decoder.blocks


SPEC = ModelSpec(
    config_type=SequenceVAEConfig,
    build=build_sequence_vae,
    objectives=objectives,
    num_params=num_params,
    flops_per_token=flops_per_token,
    max_seq_len=lambda config: config.max_position_embeddings,
    blocks=decoder_blocks,
    latent=LATENT,
    load_base_model=load_base_weights,
)
