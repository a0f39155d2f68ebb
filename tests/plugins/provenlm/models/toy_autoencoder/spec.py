"""Define an autoencoder of token sequences with two objectives over disjoint parameters.

The first objective reconstructs the inputs from one latent a sequence, the second fits a normal prior to the latents.

Shapes: B sequences, T positions, H hidden size, Z latent size, V vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.objective import Objective
from provenlm.models.common.spec import Latent, LatentSample, ModelSpec, Posterior


@dataclass(frozen=True)
class ToyAutoencoderConfig:
    """Configure the toy autoencoder."""

    hidden_size: int = 8
    latent_size: int = 4
    max_position_embeddings: int = 32

    def __post_init__(self) -> None:
        for name in ("hidden_size", "latent_size", "max_position_embeddings"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: must be >= 1, got {getattr(self, name)}")


class ToyAutoencoder(nn.Module):
    """Encode a sequence as the projected mean of its embeddings and decode every position from that latent."""

    def __init__(self, config: ToyAutoencoderConfig, vocab_size: int) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(vocab_size, config.hidden_size)
        self.embed_positions = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.to_latent = nn.Linear(config.hidden_size, config.latent_size, bias=False)
        self.from_latent = nn.Linear(config.latent_size, config.hidden_size, bias=False)
        self.output = nn.Linear(config.hidden_size, vocab_size, bias=False)
        self.prior_mean_Z = nn.Parameter(torch.zeros(config.latent_size))
        self.prior_log_scale_Z = nn.Parameter(torch.zeros(config.latent_size))

    def encode(self, tokens_BT: Tensor, mask_BT: Tensor) -> Tensor:
        """Return latents_BZ: the projected mean embedding of the positions in `mask_BT`."""
        mask_BT1 = mask_BT[..., None].to(self.embed_tokens.weight.dtype)
        mean_BH = (self.embed_tokens(tokens_BT) * mask_BT1).sum(1) / mask_BT1.sum(1).clamp(min=1)
        latents_BZ: Tensor = self.to_latent(mean_BH)
        return latents_BZ

    def decode(self, latents_BZ: Tensor, seq_len: int) -> Tensor:
        """Return logits_BTV of the tokens at the first `seq_len` positions."""
        positions_TH = self.embed_positions(torch.arange(seq_len, device=latents_BZ.device))
        logits_BTV: Tensor = self.output(torch.tanh(self.from_latent(latents_BZ)[:, None] + positions_TH))
        return logits_BTV


def build(config: ToyAutoencoderConfig, vocab_size: int) -> ToyAutoencoder:
    """Build the model, initialized from torch's global generator."""
    return ToyAutoencoder(config, vocab_size)


def objectives(model: nn.Module, ignore_index: int) -> list[Objective]:
    """Return the two objectives; they share no parameter."""
    assert isinstance(model, ToyAutoencoder)
    matrices: list[nn.Parameter] = [model.to_latent.weight, model.from_latent.weight]
    embeddings: list[nn.Parameter] = [model.embed_tokens.weight, model.embed_positions.weight, model.output.weight]
    prior = [model.prior_mean_Z, model.prior_log_scale_Z]
    return [
        Objective(
            "autoencoder",
            {"embedding": embeddings, "matrix": matrices, "default": []},
            partial(reconstruction_loss, model, ignore_index),
            "reconstruction",
        ),
        Objective(
            "prior",
            {"embedding": [], "matrix": [], "default": prior},
            partial(prior_loss, model, ignore_index),
            "negative_log_prior",
        ),
    ]


def reconstruction_loss(model: ToyAutoencoder, ignore_index: int, batch: Any) -> Mapping[str, Tensor]:
    """Compute the mean cross-entropy of the inputs at the positions with a target, in nats."""
    mask_BT = batch.targets_BT != ignore_index
    logits_BTV = model.decode(model.encode(batch.inputs_BT, mask_BT), batch.inputs_BT.shape[1])
    loss = F.cross_entropy(logits_BTV[mask_BT], batch.inputs_BT[mask_BT])
    return {"loss": loss, "reconstruction": loss.detach()}


def prior_loss(model: ToyAutoencoder, ignore_index: int, batch: Any) -> Mapping[str, Tensor]:
    """Compute the mean negative log-density of the latents under the prior; sequences are weighted by their targets."""
    mask_BT = batch.targets_BT != ignore_index
    with torch.no_grad():
        latents_BZ = model.encode(batch.inputs_BT, mask_BT)
    prior = torch.distributions.Normal(model.prior_mean_Z, model.prior_log_scale_Z.exp())
    weights_B = mask_BT.sum(1) / mask_BT.sum()
    loss = -(prior.log_prob(latents_BZ).sum(-1) * weights_B).sum()
    return {"loss": loss, "negative_log_prior": loss.detach()}


def num_params(config: ToyAutoencoderConfig, vocab_size: int) -> dict[str, int]:
    """Count parameters by part in closed form."""
    parts = {
        "embedding": vocab_size * config.hidden_size,
        "positions": config.max_position_embeddings * config.hidden_size,
        "latent": 2 * config.hidden_size * config.latent_size,
        "output": vocab_size * config.hidden_size,
        "prior": 2 * config.latent_size,
    }
    total = sum(parts.values())
    return {**parts, "total": total, "active": total}


def flops_per_token(config: ToyAutoencoderConfig, vocab_size: int, seq_len: int) -> int:
    """Count training FLOPs per token: the output matrix at every position, the latent matrices once a sequence."""
    return 6 * vocab_size * config.hidden_size + 12 * config.hidden_size * config.latent_size // seq_len


def posterior(model: nn.Module, batch: Any) -> Posterior:
    """Return the one latent of each sequence, with next to no variance; positions without a target (-100) are ignored."""
    assert isinstance(model, ToyAutoencoder)
    latents_BZ = model.encode(batch.inputs_BT, batch.targets_BT != -100)
    return Posterior(latents_BZ[:, None], torch.full_like(latents_BZ[:, None], -20.0), torch.ones(len(latents_BZ), 1).bool())


def token_nats(model: nn.Module, batch: Any, latents_BNZ: Tensor) -> Tensor:
    """Return the negative log-likelihood nats_BT of the inputs, which do not depend on each other."""
    assert isinstance(model, ToyAutoencoder)
    logits_BTV = model.decode(latents_BNZ[:, 0], batch.inputs_BT.shape[1])
    nats_BT = F.cross_entropy(logits_BTV.transpose(1, 2), batch.inputs_BT, reduction="none")
    return nats_BT.masked_fill(batch.targets_BT == -100, 0.0)


def sample_prior(
    model: nn.Module, num_sequences: int, num_latents: int, generator: torch.Generator, attributes_BNA: Tensor | None
) -> LatentSample:
    """Sample latents from the fitted prior."""
    assert isinstance(model, ToyAutoencoder)
    noise_BNZ = torch.randn(num_sequences, num_latents, model.prior_mean_Z.numel(), generator=generator)
    return LatentSample(model.prior_mean_Z + model.prior_log_scale_Z.exp() * noise_BNZ, None)


def latent_logits(
    model: nn.Module, tokens_BT: Tensor, latent_numbers_BT: Tensor, sample: LatentSample, cache: KVCache | None
) -> Tensor:
    """Return logits_BTV of the token at each position, whatever the tokens before it."""
    assert isinstance(model, ToyAutoencoder)
    return model.decode(sample.latents_BNZ[:, 0], tokens_BT.shape[1])


def load_base_model(model: nn.Module, folder: Path) -> None:
    """Load `model.safetensors` in `folder`, the weights of an autoencoder of the same shape."""
    model.load_state_dict(load_file(folder / "model.safetensors"))


SPEC = ModelSpec(
    config_type=ToyAutoencoderConfig,
    build=build,
    objectives=objectives,
    num_params=num_params,
    flops_per_token=flops_per_token,
    max_seq_len=lambda config: config.max_position_embeddings,
    latent=Latent(posterior, token_nats, sample_prior, latent_logits),
    load_base_model=load_base_model,
)
