"""Nothing in, for each operation that nets are made of its gradient by autograd beside finite differences out.

The operations run as the nets run them: those of our layers are those modules, with their own backward passes where they have one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import Recorder, Table
from provenlm.evaluation.probe import Subject
from provenlm.evaluation.probes.finite_differences import Compared, compare
from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.cross_entropy import cross_entropy
from provenlm.models.common.layers.decoder import Block, Decoder
from provenlm.models.common.layers.feed_forward import Perceptron, SwiGLU
from provenlm.models.common.layers.moe_experts import Experts
from provenlm.models.common.layers.moe_router import Router, balance_loss, z_loss
from provenlm.models.common.layers.rms_norm import RMSNorm

HIDDEN, LENGTH, VOCABULARY = 8, 5, 11
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Operation:
    """`value(tensors)` is what the operation makes of `tensors`, all of which are moved."""

    tensors: Tensors
    value: Callable[[Tensors], Tensor]


def operations(subject: Subject, figures: Recorder) -> None:
    """A figure for each operation, and the worst of all."""
    torch.manual_seed(rng.seed_of(subject.seed, "operations"))
    found = {name: compared(operation, subject.seed) for name, operation in every().items()}
    for name, result in found.items():
        meaning = f"of the gradient of {name.replace('_', ' ')}: autograd against central differences in float64"
        figures.measured(f"{name}.relative_error", result.error, "ratio", meaning)
    worst = max(found, key=lambda name: found[name].worst.error)
    figures.counted("compared", len(found), "operations", "operations whose gradients were compared")
    figures.measured("largest_relative_error", found[worst].worst.error, "ratio", f"of a single tensor, in {worst}")
    figures.measured("smallest_cosine", min(r.least_cosine for r in found.values()), "", "of a single tensor, over all operations")
    rows = [(name, len(r.slopes), sum(s.looked for s in r.slopes), r.error, r.cosine) for name, r in found.items()]
    columns = ("operation", "tensors", "elements looked at", "relative error", "cosine")
    figures.tables.append(Table("compared", "gradients by autograd against central differences in float64", columns, rows))


def compared(operation: Operation, seed: int) -> Compared:
    """The slopes of a fixed random mixture of all that the operation gives."""
    tensors = {name: tensor.detach().double().requires_grad_() for name, tensor in operation.tensors.items()}
    weights = torch.randn_like(operation.value(tensors).detach())
    return compare(lambda: (operation.value(tensors) * weights).sum(), tensors, seed)


def every() -> dict[str, Operation]:
    """All operations by name, over numbers from torch's current generator."""
    return {**_arithmetic(), **_products(), **_halves(), **_mixtures(), **_latent(), **_whole()}


def _arithmetic() -> dict[str, Operation]:
    pair = {"a": torch.randn(3, 4), "b": torch.rand(4) + 0.5}  # broadcast, and away from nought
    return {
        "reshape": Operation({"a": torch.randn(3, 4)}, lambda t: t["a"].reshape(2, 6).square()),
        "add": Operation(pair, lambda t: (t["a"] + t["b"]).square()),
        "subtract": Operation(pair, lambda t: (t["a"] - t["b"]).square()),
        "multiply": Operation(pair, lambda t: t["a"] * t["b"]),
        "divide": Operation(pair, lambda t: t["a"] / t["b"]),
    }


def _products() -> dict[str, Operation]:
    ids = torch.tensor([3, 0, 3, 6])
    places = rotary.angles(torch.arange(LENGTH), HIDDEN, 10_000.0)
    return {
        "matmul_2d": Operation({"a": torch.randn(3, 4), "b": torch.randn(4, 2)}, lambda t: t["a"] @ t["b"]),
        "matmul_batched": Operation({"a": torch.randn(2, 3, 4), "b": torch.randn(2, 4, 2)}, lambda t: t["a"] @ t["b"]),
        "embedding": Operation({"table": torch.randn(7, 4)}, lambda t: F.embedding(ids, t["table"]).square()),
        "rotary": Operation({"heads": torch.randn(1, 2, LENGTH, HIDDEN)}, lambda t: rotary.rotate(t["heads"], places).square()),
    }


def _halves() -> dict[str, Operation]:
    """What stands in a block."""
    states = torch.randn(1, LENGTH, HIDDEN)
    places = rotary.angles(torch.arange(LENGTH), HIDDEN // 4, 10_000.0)
    attention = Attention(HIDDEN, 4, 2, 0.0, bias=True)
    return {
        "layer_norm": _module(nn.LayerNorm(HIDDEN), states),
        "rms_norm": _module(RMSNorm(HIDDEN, 1e-5), states),
        "gelu": _module(Perceptron(HIDDEN, 6), states),
        "swiglu": _module(SwiGLU(HIDDEN, 6), states),
        "attention": _module(attention, states, places, None, None),
    }


def _mixtures() -> dict[str, Operation]:
    states = torch.randn(2 * LENGTH, HIDDEN)
    router, experts = Router(HIDDEN, 4, 2, biased=False), Experts(4, HIDDEN, 6)
    return {"router": _module(_Routed(router), states), "experts": _module(_Mixture(router, experts), states)}


def _latent() -> dict[str, Operation]:
    """What a variational autoencoder has and a decoder has not."""
    return {"variational": _module(_Variational(3), torch.randn(LENGTH, HIDDEN))}


def _whole() -> dict[str, Operation]:
    """Whole decoders down to the loss."""
    return {name: _module(_Loss(decoder(style, VOCABULARY, LENGTH)), None) for name, style in (("gpt", "gpt2"), ("llama", "llama"))}


def decoder(style: str, vocabulary: int, context: int) -> Decoder:
    """Two blocks in the style of GPT-2 or of Llama."""

    def norm() -> RMSNorm | nn.LayerNorm:
        return nn.LayerNorm(HIDDEN) if style == "gpt2" else RMSNorm(HIDDEN, 1e-5)

    def block() -> Block:
        half = Perceptron(HIDDEN, 6) if style == "gpt2" else SwiGLU(HIDDEN, 6)
        return Block(norm(), Attention(HIDDEN, 4, 4, 0.0, bias=style == "gpt2"), norm(), half, 0.0)

    theta = None if style == "gpt2" else 10_000.0
    return Decoder(vocabulary, HIDDEN, context, [block(), block()], norm(), tied=True, rope_theta=theta)


class _Routed(nn.Module):
    """A router's weights and its losses."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.router = router

    def forward(self, states_ND: Tensor) -> Tensor:
        routing = self.router(states_ND)
        return torch.cat([routing.weights_NK.flatten(), balance_loss(routing)[None], z_loss(routing)[None]])


class _Mixture(nn.Module):
    """A router and its experts."""

    def __init__(self, router: Router, experts: Experts) -> None:
        super().__init__()
        self.router, self.experts = router, experts

    def forward(self, states_ND: Tensor) -> Tensor:
        routing = self.router(states_ND)
        said_ND: Tensor = self.experts(states_ND, routing.chosen_NK, routing.weights_NK)
        return said_ND


class _Variational(nn.Module):
    """States through a latent of `latent` numbers and back: reparameterised by fixed noise, and the divergence from a standard normal
    (Kingma and Welling 2014, arXiv 1312.6114, eq. 10)."""

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(HIDDEN, 2 * latent), nn.Linear(latent, HIDDEN)
        self.register_buffer("noise_NZ", torch.randn(LENGTH, latent), persistent=False)

    def forward(self, states_ND: Tensor) -> Tensor:
        mean_NZ, log_variance_NZ = self.encoder(states_ND).chunk(2, -1)
        back_ND = self.decoder(mean_NZ + (0.5 * log_variance_NZ).exp() * self.get_buffer("noise_NZ"))
        divergence_NZ = 0.5 * (mean_NZ.square() + log_variance_NZ.exp() - 1 - log_variance_NZ)
        return torch.cat([(back_ND - states_ND).square().flatten(), divergence_NZ.sum(-1)])


class _Loss(nn.Module):
    """Cross-entropy of a decoder on a fixed row."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("row_T", torch.randint(VOCABULARY, (LENGTH + 1,)), persistent=False)

    def forward(self) -> Tensor:
        row_T = self.get_buffer("row_T")
        states_BTD, _ = self.model.states(row_T[None, :-1])
        return cross_entropy(states_BTD.flatten(0, 1), self.model.head, row_T[1:], -100)


def _module(module: nn.Module, states: Tensor | None, *rest: object) -> Operation:
    """What `module` makes of `states` (None: of nothing), with its parameters, drawn anew, and the states moved."""
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.5)
    own = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def value(tensors: Tensors) -> Tensor:
        weights = {name: tensor for name, tensor in tensors.items() if name != "states"}
        given = () if states is None else (tensors["states"],)
        said = torch.func.functional_call(module, weights, (*given, *rest))
        said_X: Tensor = said[0] if isinstance(said, tuple) else said
        return said_X

    return Operation(own if states is None else {**own, "states": states}, value)
