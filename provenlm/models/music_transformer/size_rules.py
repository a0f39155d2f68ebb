"""Tell the planner how a music transformer is usually shaped."""

from typing import Any

from provenlm.models.common.spec import PlannedShape, SizeRules


def config_fields(shape: PlannedShape) -> dict[str, Any]:
    """Return the config of a planned shape: plain attention in the variant llama.

    There are as many key/value heads as heads.
    """
    return {
        "attention": "plain",
        "variant": "llama",
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": shape.max_seq_len,
        "tie_word_embeddings": True,
    }


SIZE_RULES = SizeRules(8 / 3, (1,), config_fields)  # ratio of SwiGLU (arXiv 2002.05202)
