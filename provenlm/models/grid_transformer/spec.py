"""Export the grid transformer as a plug-in.

It has no next-token logits: it is not causal, and generates nothing token by token.
"""

from torch import nn

from provenlm.models.common.base_weights import load_base_weights
from provenlm.models.common.layers.block_stack import BlockStack
from provenlm.models.common.spec import ModelSpec
from provenlm.models.grid_transformer.config import GridTransformerConfig, with_token_classes
from provenlm.models.grid_transformer.losses import objectives
from provenlm.models.grid_transformer.model import GridTransformer, build_grid_transformer, flops_per_token, num_params


def grid_blocks(model: nn.Module) -> BlockStack:
    """Return the blocks."""
    assert isinstance(model, GridTransformer)
    return model.layers


SPEC = ModelSpec(
    config_type=GridTransformerConfig,
    build=build_grid_transformer,
    objectives=objectives,
    num_params=num_params,
    flops_per_token=flops_per_token,
    max_seq_len=lambda config: config.max_cells,
    blocks=grid_blocks,
    load_base_model=load_base_weights,
    with_token_classes=with_token_classes,
)
