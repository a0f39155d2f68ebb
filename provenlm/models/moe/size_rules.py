"""Tell the planner how a Mixtral-like decoder is usually shaped."""

from typing import Any

from provenlm.models.common.spec import PlannedShape, SizeRules

NUM_EXPERTS, EXPERTS_PER_TOKEN = 8, 2  # Mixtral (arXiv 2401.04088)


def config_fields(shape: PlannedShape) -> dict[str, Any]:
    """Return the config of a planned shape, with an auxiliary loss in each layer."""
    return {
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "num_experts": shape.num_experts,
        "num_experts_per_tok": EXPERTS_PER_TOKEN,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_seq_len,
        "tie_word_embeddings": True,
        "rope_theta": 10_000.0,
        "norm_eps": 1e-5,
        "dropout": 0.0,
        "load_balancing": "aux_loss",
        "load_balancing_weight": 0.01,  # Switch Transformer (arXiv 2101.03961)
        "z_loss_weight": 0.001,  # ST-MoE (arXiv 2202.08906)
    }


SIZE_RULES = SizeRules(2.0, (NUM_EXPERTS, 2 * NUM_EXPERTS), config_fields)  # ratio of the default recipe's experts
