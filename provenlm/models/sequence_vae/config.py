"""Define the config of the sequence VAE.

It is a recipe's `model` section with `arch: sequence_vae`.
"""

from dataclasses import dataclass, field
from typing import Literal

SIZES = (
    "hidden_size",
    "num_encoder_layers",
    "num_decoder_layers",
    "num_attention_heads",
    "intermediate_size",
    "window",
    "latent_size",
    "max_position_embeddings",
    "kl_warmup_steps",
)


@dataclass(frozen=True)
class LatentPriorConfig:
    """Configure the autoregressive prior over latents and attributes."""

    hidden_size: int = 96
    num_hidden_layers: int = 2
    num_attention_heads: int = 4
    intermediate_size: int = 384

    def __post_init__(self) -> None:
        _check_sizes(self, ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"))
        _check_heads(self.hidden_size, self.num_attention_heads)


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Configure the discriminator and what it tells the decoder.

    start_step: updates before the decoder trains against the discriminator (likelihood first, as in Muhamed et al. 2021, AAAI).
    pretraining_steps: how many updates earlier the discriminator itself begins (as in SeqGAN, Yu et al. 2017, arXiv 1609.05473).
    gradient_share: norm of the adversarial gradient at the output matrix as a fraction of that of the likelihood.
    max_weight: largest factor that reaches this share.
    start_temperature, end_temperature: of the Gumbel softmax (Jang et al. 2017, arXiv 1611.01144), at the start and `temperature_steps`
        updates later.
    """

    num_hidden_layers: int = 2
    start_step: int = 300
    pretraining_steps: int = 100
    gradient_share: float = 0.1
    max_weight: float = 100.0
    start_temperature: float = 1.0
    end_temperature: float = 0.5
    temperature_steps: int = 100

    def __post_init__(self) -> None:
        _check_sizes(self, ("num_hidden_layers", "temperature_steps"))
        for name in ("start_step", "pretraining_steps"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name}: must be >= 0, got {getattr(self, name)}")
        for name in ("gradient_share", "max_weight", "start_temperature", "end_temperature"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class SequenceVAEConfig:
    """Configure a VAE of sequences with one latent a bar.

    attention: plain, or hierarchical: windows of `window` positions and summaries of bars. free_bits: KL divergence of a dimension
        of a latent, in nats, below which it costs nothing (Kingma et al. 2016, arXiv 1606.04934). Each latent counts by itself, as in
        Optimus (Li et al. 2020, arXiv 2004.04092), because their mean in a batch may lie below it in every dimension.
    kl_warmup_steps: updates after which the KL divergence has its full weight (Bowman et al. 2016, arXiv 1511.06349): half of the
        training is usual.
    num_attribute_classes: classes of each attribute that a batch brings; empty: the decoder is told no attributes.
    prior: null: latents are sampled from the standard normal distribution. discriminator: null: a VAE; else a VAE-GAN.
    """

    hidden_size: int = 128
    num_encoder_layers: int = 2
    num_decoder_layers: int = 3
    num_attention_heads: int = 4
    intermediate_size: int = 512
    attention: Literal["plain", "hierarchical"] = "plain"
    window: int = 256
    latent_size: int = 32
    max_position_embeddings: int = 1024  # longest sequence
    rope_theta: float = 10_000.0
    norm_eps: float = 1e-5
    dropout: float = 0.0
    free_bits: float = 0.25
    kl_warmup_steps: int = 300
    num_attribute_classes: tuple[int, ...] = (8, 8)
    prior: LatentPriorConfig | None = field(default_factory=LatentPriorConfig)
    discriminator: DiscriminatorConfig | None = None

    def __post_init__(self) -> None:
        _check_sizes(self, SIZES)
        _check_heads(self.hidden_size, self.num_attention_heads)
        for name in ("rope_theta", "norm_eps"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name}: must be > 0, got {getattr(self, name)}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout: must be >= 0 and < 1, got {self.dropout}")
        if self.free_bits < 0:
            raise ValueError(f"free_bits: must be >= 0, got {self.free_bits}")
        if any(number < 2 for number in self.num_attribute_classes):
            raise ValueError(f"num_attribute_classes: must be >= 2 each, got {list(self.num_attribute_classes)}")
        if self.num_attribute_classes and self.prior is None:
            raise ValueError("num_attribute_classes: must be [] without a prior, which the bound on the likelihood needs for them")


def _check_sizes(config: object, names: tuple[str, ...]) -> None:
    for name in names:
        if getattr(config, name) < 1:
            raise ValueError(f"{name}: must be >= 1, got {getattr(config, name)}")


def _check_heads(hidden_size: int, num_heads: int) -> None:
    if hidden_size % (2 * num_heads):
        raise ValueError(f"hidden_size: must be a multiple of 2 * num_attention_heads = {2 * num_heads}, got {hidden_size}")
