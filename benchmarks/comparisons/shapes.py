"""Define the model shapes that the training benchmarks time."""

from provenlm.models.gpt.config import GPTConfig
from provenlm.models.moe.config import MoEConfig

VOCAB_SIZE = 32_000
# 223 million parameters; the dense shape has as many active parameters in its feed-forward layers
MOE_223M = MoEConfig(
    hidden_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=2,
    num_experts=8,
    num_experts_per_tok=2,
    intermediate_size=2048,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    dropout=0.0,
    load_balancing="global_aux_loss",
    z_loss_weight=0.0,  # Mixtral has none
)
DENSE = GPTConfig(
    variant="llama",
    hidden_size=512,
    num_hidden_layers=8,
    num_attention_heads=8,
    num_key_value_heads=2,
    intermediate_size=4096,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    dropout=0.0,
)
