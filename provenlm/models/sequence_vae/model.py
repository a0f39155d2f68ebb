"""Build the sequence VAE from encoder, decoder, prior and discriminator.

The prior is optional; the discriminator makes it a VAE-GAN.

The encoder sees the tokens of a latent's own bar. The latent and its attributes enter the decoder before every block, through matrices
that start at zero (in-attention conditioning: MuseMorphose, arXiv 2105.04090), so that the decoder begins as a plain language model.

Shapes: B sequences, T positions, N latents of a sequence, Z latent size, A attributes, D hidden size, V vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import Posterior
from provenlm.models.sequence_vae.blocks import SegmentStack
from provenlm.models.sequence_vae.config import SequenceVAEConfig
from provenlm.models.sequence_vae.discriminator import Discriminator
from provenlm.models.sequence_vae.prior import MAX_LOG_VARIANCE, MIN_LOG_VARIANCE, LatentPrior

EVAL_SEED = 0
INITIAL_LOG_VARIANCE = -1.0
ZERO_WEIGHTS = ("o_proj.weight", "down_proj.weight", "bias", "from_latent.weight", "to_log_variance.weight", "start_D")


class StopGradient(nn.Module):
    """Pass a tensor on without its gradient.

    It is a module so that the check of gradients can hold its output constant.
    """

    stops_gradient = True

    def forward(self, tensor: Tensor) -> Tensor:
        return tensor.detach()


class SequenceVAE(nn.Module):
    """Encode bars to latents and decode them to tokens.

    A token depends on the latent and attributes of its bar and on the tokens before.

    `num_updates` counts the updates of the VAE, on which the weight of the KL divergence depends; `adversarial_weight` is the last factor
    of the adversarial terms.
    """

    num_updates: Tensor
    adversarial_weight: Tensor

    def __init__(self, config: SequenceVAEConfig, vocab_size: int) -> None:
        super().__init__()
        c = self.config = config
        self.vocab_size = vocab_size
        self.embed_tokens = nn.Embedding(vocab_size, c.hidden_size)
        self.encoder = SegmentStack(c, c.num_encoder_layers, is_causal=False)
        self.to_mean = nn.Linear(c.hidden_size, c.latent_size)
        self.to_log_variance = nn.Linear(c.hidden_size, c.latent_size)
        self.from_latent = nn.Linear(c.latent_size, c.hidden_size)
        self.attribute_embeddings = nn.ModuleList(nn.Embedding(number, c.hidden_size) for number in c.num_attribute_classes)
        self.decoder = SegmentStack(c, c.num_decoder_layers, is_causal=True)
        self.lm_head = nn.Linear(c.hidden_size, vocab_size)
        self.prior = None if c.prior is None else LatentPrior(c.prior, c.latent_size, tuple(c.num_attribute_classes), c.rope_theta)
        self.discriminator = None if c.discriminator is None else Discriminator(c, c.discriminator.num_hidden_layers)
        self.stop_gradient = StopGradient()
        self.register_buffer("num_updates", torch.zeros((), dtype=torch.int64))
        self.register_buffer("adversarial_weight", torch.ones(()))

    @property
    def kl_weight(self) -> float:
        """Return the weight of the KL divergence.

        It rises linearly in training, and is 1 in evaluation.
        """
        return min(1.0, (int(self.num_updates) + 1) / self.config.kl_warmup_steps) if self.training else 1.0

    def noise(self, like: Tensor) -> Tensor:
        """Return standard normal noise.

        In evaluation it is always the same, so that losses can be compared.
        """
        if self.training:
            return torch.randn_like(like)
        generator = torch.Generator().manual_seed(EVAL_SEED)
        return torch.randn(like.shape, generator=generator).to(like)

    def attributes(self, batch: Any) -> Tensor | None:
        """Return attributes_BNA of a batch; None for a model without attributes.

        Raises ValueError if they do not fit the model.
        """
        num_classes = self.config.num_attribute_classes
        if not num_classes:
            return None
        attributes_BNA: Tensor = batch.attributes_BNA
        num_attributes = attributes_BNA.shape[-1]
        if num_attributes != len(num_classes):
            raise ValueError(f"model.num_attribute_classes must have {num_attributes} entries, got {list(num_classes)}")
        return attributes_BNA

    def encode(self, targets_BT: Tensor, latent_numbers_BT: Tensor, num_latents: int) -> Posterior:
        """Return the posterior of every latent.

        It depends on the targets that are predicted with the latent.
        """
        is_target_BT = targets_BT != IGNORE
        segments_BT = latent_numbers_BT.masked_fill(~is_target_BT, num_latents)
        states_BTD = self.encoder(self.embed_tokens(targets_BT.masked_fill(~is_target_BT, 0)), segments_BT)
        mean_BNT, is_latent_BN = segment_means(segments_BT, num_latents, states_BTD.dtype)
        pooled_BND = mean_BNT @ states_BTD
        log_variance_BNZ = self.to_log_variance(pooled_BND).clamp(MIN_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return Posterior(self.to_mean(pooled_BND), log_variance_BNZ, is_latent_BN)

    def sample(self, posterior: Posterior) -> Tensor:
        """Draw latents_BNZ from a posterior."""
        return posterior.mean_BNZ + self.noise(posterior.mean_BNZ) * (0.5 * posterior.log_variance_BNZ).exp()

    def decode(
        self,
        tokens_BT: Tensor,
        latent_numbers_BT: Tensor,
        latents_BNZ: Tensor,
        attributes_BNA: Tensor | None,
        cache: KVCache | None = None,
    ) -> Tensor:
        """Return logits_BTV of the token after each position.

        Raises ValueError beyond `max_position_embeddings`.
        """
        num_positions = tokens_BT.shape[1] if cache is None else cache.attn_mask_B1TS.shape[-1]
        if num_positions > self.config.max_position_embeddings:
            raise ValueError(
                f"sequence length must be <= max_position_embeddings = {self.config.max_position_embeddings}, got {num_positions}"
            )
        injected_BND = self.from_latent(latents_BNZ)
        for index, embedding in enumerate(self.attribute_embeddings):
            assert attributes_BNA is not None
            injected_BND = injected_BND + embedding(attributes_BNA[..., index])
        choice_BTN = F.one_hot(latent_numbers_BT, latents_BNZ.shape[1]).to(injected_BND.dtype)
        states_BTD = self.decoder(self.embed_tokens(tokens_BT), latent_numbers_BT, choice_BTN @ injected_BND, cache)
        logits_BTV: Tensor = self.lm_head(states_BTD)
        return logits_BTV

    def posterior(self, batch: Any) -> Posterior:
        """Return the posterior of the latents of a batch with `targets_BT` and `bars_BT`."""
        return self.encode(batch.targets_BT, batch.bars_BT, num_latents(batch))


def num_latents(batch: Any) -> int:
    """Return the number of latents of the longest sequence of a batch."""
    attributes_BNA = getattr(batch, "attributes_BNA", None)
    return int(batch.bars_BT.max()) + 1 if attributes_BNA is None else attributes_BNA.shape[1]


def segment_means(segments_BT: Tensor, num_segments: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return a matrix (B, N, T) that averages the positions of each segment.

    Also returns which segments have any, (B, N).

    Segment `num_segments` is padding.
    """
    members_BNT = F.one_hot(segments_BT, num_segments + 1)[..., :num_segments].transpose(1, 2).to(dtype)
    sizes_BN1 = members_BNT.sum(-1, keepdim=True)
    return members_BNT / sizes_BN1.clamp(min=1), sizes_BN1[..., 0] > 0


def build_sequence_vae(config: SequenceVAEConfig, vocab_size: int) -> SequenceVAE:
    """Build the model, initialized from torch's global generator.

    Normal with standard deviation 0.02 for embeddings and 1/√(fan-in) for matrices; matrices that write into the residual stream or
    inject latents are zero, except in the discriminator.
    """
    model = SequenceVAE(config, vocab_size)
    if model.lm_head.weight.is_meta:
        return model  # for counting: there is nothing to initialize
    for name, parameter in model.named_parameters():
        is_critic = name.startswith("discriminator.")
        if name.startswith("attribute_embeddings.") or (name.endswith(ZERO_WEIGHTS) and (parameter.ndim == 1 or not is_critic)):
            nn.init.zeros_(parameter)
        elif name in ("embed_tokens.weight", "lm_head.weight") or "attribute_inputs" in name or "attribute_outputs" in name:
            nn.init.normal_(parameter, 0.0, 0.02)
        elif parameter.ndim > 1:
            nn.init.normal_(parameter, 0.0, parameter.shape[-1] ** -0.5)
    nn.init.constant_(model.to_log_variance.bias, INITIAL_LOG_VARIANCE)
    if model.discriminator is not None:
        model.discriminator.normalize_spectrum()
    return model
