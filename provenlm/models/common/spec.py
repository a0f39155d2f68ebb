"""Define `ModelSpec`, the interface of a model.

A model package holds `SPEC = ModelSpec(...)` in its `spec.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from torch import Generator, Tensor, nn

from provenlm.core import config, registry
from provenlm.core.errors import ConfigError
from provenlm.models.common.hf_export import HFExport
from provenlm.models.common.layers.block_stack import BlockStack
from provenlm.models.common.layers.kv_cache import KVCache
from provenlm.models.common.objective import IGNORE, Objective, TokenBatch

# capability -> the optional field of ModelSpec that offers it
CAPABILITIES = {
    "next_token_logits": "logits",
    "kv_cache": "logits_with_cache",
    "hf_export": "to_hf",
    "model_metrics": "eval_metrics",
    "blocks": "blocks",
    "latent": "latent",
}


class Posterior(NamedTuple):
    """Hold the posterior of every latent of a batch: independent normal distributions.

    `is_latent_BN` is false where a sequence has fewer latents than others.
    """

    mean_BNZ: Tensor
    log_variance_BNZ: Tensor
    is_latent_BN: Tensor


class LatentSample(NamedTuple):
    """Hold latents from the prior and their attributes.

    Attributes are classes, int64; None for a model without attributes.
    """

    latents_BNZ: Tensor
    attributes_BNA: Tensor | None


@dataclass(frozen=True)
class Latent:
    """Describe the latent space of a model such as a VAE.

    Latents are float (B, N, Z): N of them a sequence, one for a model of whole sequences. Attributes are what else the decoder is told
    of each latent, int64 (B, N, A); a batch brings its own, and a model without attributes takes None.

    - `posterior(model, batch)` returns the posterior of the latents of a batch.
    - `token_nats(model, batch, latents_BNZ)` returns the negative log-likelihood nats_BT of the targets, given any latents and the
      tokens before; 0 where there is no target.
    - `prior(model, num_sequences, num_latents, generator, attributes_BNA)` samples latents; None: it samples the attributes too.
    - `logits(model, tokens_BT, latent_numbers_BT, sample, cache)` returns logits_BTV of the next token; position t of a sequence uses
      latent `latent_numbers_BT[b, t]` of `sample`. With a cache the tokens follow those in the cache.
    - `has_cache(model)`: whether `logits` takes a cache; else it is called with None and whole sequences.
    """

    posterior: Callable[[nn.Module, Any], Posterior]
    token_nats: Callable[[nn.Module, Any, Tensor], Tensor]
    prior: Callable[[nn.Module, int, int, Generator, Tensor | None], LatentSample]
    logits: Callable[[nn.Module, Tensor, Tensor, LatentSample, KVCache | None], Tensor]
    has_cache: Callable[[nn.Module], bool] = lambda model: False


class PlannedShape(NamedTuple):
    """Hold the sizes that `provenlm plan` chooses.

    `num_experts` is 1 for a dense model.
    """

    num_layers: int
    hidden_size: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    num_experts: int
    max_seq_len: int


@dataclass(frozen=True)
class SizeRules:
    """Tell `provenlm plan` how a model is usually shaped.

    `ffn_ratio` is the intermediate size over the hidden size, `num_experts` lists the numbers of experts to try, the usual one first,
    and `config_fields(shape)` returns the fields of the model's config.
    """

    ffn_ratio: float
    num_experts: Sequence[int]
    config_fields: Callable[[PlannedShape], Mapping[str, Any]]


@dataclass(frozen=True)
class ModelSpec:
    """Describe a model as functions of its config.

    The fields that may be None are its optional capabilities.

    - `build(config, vocab_size)` returns the module, initialized from torch's global generator; it also works on the meta device.
    - `objectives(model, ignore_index)` returns what training minimizes: one objective for a decoder, two for a GAN.
    - `num_params(config, vocab_size)` returns the closed-form parameter counts by part, and `total` and `active` (per token).
    - `flops_per_token(config, vocab_size, seq_len)` returns the closed-form training FLOPs (forward and backward) per token.
    - `max_seq_len(config)` returns the length of the longest sequence that the model accepts.
    - `logits(model, tokens_BT)` returns logits_BTV of the next token at every position; the model is causal.
    - `logits_with_cache(model, tokens_BT, cache)` returns the same for tokens that follow the cached ones.
    - `to_hf(config, vocab_size, state_dict)` returns the weights in the names and layout of Hugging Face transformers.
    - `eval_metrics(model, tokens_BT)` returns metrics particular to the model: name -> (value, unit, description).
    - `blocks(model)` returns the stack of blocks that training may compile and checkpoint one by one.
    - `latent` gives access to a latent space.
    - `size_rules` let `provenlm plan` suggest shapes; no probe asks for them, so they are not among the capabilities.
    - `load_base_model(model, folder)` loads the weights of a base model into a new model; without it training starts from random weights.
    - `with_token_classes(config, token_classes)` returns the config completed by facts of the corpus's tokens, such as which begin a bar.
    """

    config_type: type
    build: Callable[[Any, int], nn.Module]
    objectives: Callable[[nn.Module, int], Sequence[Objective]]
    num_params: Callable[[Any, int], Mapping[str, int]]
    flops_per_token: Callable[[Any, int, int], int]
    max_seq_len: Callable[[Any], int]
    logits: Callable[[nn.Module, Tensor], Tensor] | None = None
    logits_with_cache: Callable[[nn.Module, Tensor, KVCache], Tensor] | None = None
    to_hf: Callable[[Any, int, Mapping[str, Tensor]], HFExport] | None = None
    eval_metrics: Callable[[nn.Module, Tensor], Mapping[str, tuple[float, str, str]]] | None = None
    blocks: Callable[[nn.Module], BlockStack] | None = None
    latent: Latent | None = None
    size_rules: SizeRules | None = None
    load_base_model: Callable[[nn.Module, Path], None] | None = None
    with_token_classes: Callable[[Any, Mapping[str, Sequence[int]]], Any] | None = None

    def losses(self, model: nn.Module, inputs_BT: Tensor, targets_BT: Tensor) -> dict[str, Tensor]:
        """Compute the minimized loss of every objective on a batch, by objective name."""
        batch = TokenBatch(inputs_BT, targets_BT)
        return {objective.name: objective.loss(batch)["loss"] for objective in self.objectives(model, IGNORE)}


def capabilities(spec: ModelSpec) -> frozenset[str]:
    """Return the names of the optional capabilities that a model offers."""
    return frozenset(name for name, field in CAPABILITIES.items() if getattr(spec, field) is not None)


def require_capability(spec: ModelSpec, capability: str, location: str) -> None:
    """Raise ConfigError unless a model offers a capability.

    `location` is the prefix of the message.
    """
    offered = capabilities(spec)
    if capability not in offered:
        raise ConfigError(
            f"{location}: must be a model with the capability {capability}, got {', '.join(sorted(offered)) or 'none'}"
        )


class ResolvedModel(NamedTuple):
    """Hold the model that a recipe names.

    `section` has all fields of the parsed config with their values.
    """

    arch: str
    spec: ModelSpec
    model_config: Any
    section: Mapping[str, Any]


def resolve_model(section: Mapping[str, Any], location: str) -> ResolvedModel:
    """Parse a recipe's model section; `location` is the prefix of error messages.

    The section of the result has defaults filled in, so that a checkpoint does not change when a default does. Raises ConfigError
    if the section names no known model.
    """
    if "arch" not in section:
        raise ConfigError(f"{location}: missing key 'arch'; known: {', '.join(registry.plugin_names('models'))}")
    spec = registry.load_model(section["arch"], ModelSpec)
    fields = {name: value for name, value in section.items() if name != "arch"}
    model_config: Any = config.parse_config(spec.config_type, fields, location)
    return ResolvedModel(section["arch"], spec, model_config, asdict(model_config))


def complete_model(model: ResolvedModel, token_classes: Mapping[str, Any], location: str) -> ResolvedModel:
    """Complete the config of a model by the token classes of its corpus.

    The checkpoint then records them. `location` is the prefix of error messages. Raises ConfigError if the model needs a class that the tokens do not have.
    """
    if model.spec.with_token_classes is None:
        return model
    try:
        model_config: Any = model.spec.with_token_classes(model.model_config, token_classes)
    except ConfigError as error:
        raise ConfigError(f"{location}.{error}") from None
    return model._replace(model_config=model_config, section=asdict(model_config))
