"""Export the mixture-of-experts decoder as a plug-in."""

from provenlm.models.common.layers.decoder import decoder_blocks, logits_with_cache, next_token_logits
from provenlm.models.common.spec import ModelSpec
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.hf_export import to_hf
from provenlm.models.moe.losses import objectives
from provenlm.models.moe.metrics import expert_metrics
from provenlm.models.moe.model import build_moe, flops_per_token, num_params
from provenlm.models.moe.size_rules import SIZE_RULES

SPEC = ModelSpec(
    config_type=MoEConfig,
    build=build_moe,
    objectives=objectives,
    logits=next_token_logits,
    logits_with_cache=logits_with_cache,
    num_params=num_params,
    flops_per_token=flops_per_token,
    eval_metrics=expert_metrics,
    max_seq_len=lambda config: config.max_position_embeddings,
    to_hf=to_hf,
    blocks=decoder_blocks,
    size_rules=SIZE_RULES,
)
