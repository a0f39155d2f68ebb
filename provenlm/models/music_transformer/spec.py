"""Export the music transformer as a plug-in."""

from torch import Tensor, nn

from provenlm.models.common.base_weights import load_base_weights
from provenlm.models.common.layers.decoder import decoder_blocks, next_token_logits
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.spec import ModelSpec
from provenlm.models.music_transformer.config import MusicTransformerConfig, with_token_classes
from provenlm.models.music_transformer.hf_export import to_hf
from provenlm.models.music_transformer.losses import objectives
from provenlm.models.music_transformer.model import build_music_transformer, flops_per_token, num_params
from provenlm.models.music_transformer.size_rules import SIZE_RULES


def logits_with_cache(model: nn.Module, tokens_BT: Tensor, cache: KVCache) -> Tensor:
    """Return logits_BTV for tokens at the positions of `cache`."""
    logits_BTV: Tensor = model(tokens_BT, cache)
    return logits_BTV


SPEC = ModelSpec(
    config_type=MusicTransformerConfig,
    build=build_music_transformer,
    objectives=objectives,
    logits=next_token_logits,
    logits_with_cache=logits_with_cache,
    num_params=num_params,
    flops_per_token=flops_per_token,
    max_seq_len=lambda config: config.max_position_embeddings,
    to_hf=to_hf,
    blocks=decoder_blocks,
    size_rules=SIZE_RULES,
    load_base_model=load_base_weights,
    with_token_classes=with_token_classes,
)
