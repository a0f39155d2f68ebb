"""Export the dense decoder as a plug-in."""

from provenlm.models.common.layers.decoder import decoder_blocks, logits_with_cache, next_token_logits
from provenlm.models.common.spec import ModelSpec
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.hf_export import to_hf
from provenlm.models.gpt.losses import objectives
from provenlm.models.gpt.model import build_gpt, flops_per_token, num_params
from provenlm.models.gpt.size_rules import SIZE_RULES

SPEC = ModelSpec(
    config_type=GPTConfig,
    build=build_gpt,
    objectives=objectives,
    logits=next_token_logits,
    logits_with_cache=logits_with_cache,
    num_params=num_params,
    flops_per_token=flops_per_token,
    max_seq_len=lambda config: config.max_position_embeddings,
    to_hf=to_hf,
    blocks=decoder_blocks,
    size_rules=SIZE_RULES,
)
