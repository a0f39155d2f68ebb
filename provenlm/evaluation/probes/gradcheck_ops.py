"""Compare autograd with finite differences for every operation of the models.

The layers run as the modules that the models use, with their own backward passes where they have one.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes.finite_differences import GradcheckResult, compare_gradients
from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.cross_entropy import cross_entropy
from provenlm.models.common.layers.decoder import Decoder, TransformerBlock
from provenlm.models.common.layers.feed_forward import MLP, SwiGLU
from provenlm.models.common.layers.moe_experts import Experts
from provenlm.models.common.layers.moe_router import Router, load_balancing_loss, z_loss
from provenlm.models.common.layers.rms_norm import RMSNorm

HIDDEN, SEQ_LEN, VOCAB_SIZE = 8, 5, 11
NamedTensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class OpCase:
    """Hold an operation and its inputs; all of `tensors` are perturbed."""

    tensors: NamedTensors
    forward: Callable[[NamedTensors], Tensor]


def gradcheck_ops_probe() -> Probe:
    """Return the probe that checks the gradient of every operation."""
    checks = {
        "max_relative_error": Check("< 1e-5", "the gradient of an operation is wrong: the table of operations shows which"),
        "min_cosine": Check(
            "> 0.999999", "the gradient of an operation has a wrong direction: the table of operations shows which"
        ),
    }
    return Probe(record_gradcheck_ops, checks=checks)


def record_gradcheck_ops(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record the gradient error of each operation and the largest over all operations."""
    torch.manual_seed(rng.derive_seed(context.seed, "operations"))
    results = {name: check_op(op, context.seed) for name, op in all_ops().items()}
    for name, result in results.items():
        description = f"Relative error of the gradient of {name.replace('_', ' ')}: autograd against central differences in float64"
        metrics.add_measurement(f"{name}.relative_error", result.relative_error, "ratio", description)
    worst = max(results, key=lambda name: results[name].worst.relative_error)
    metrics.add_count("num_ops", len(results), "operations", "Operations whose gradients were compared")
    metrics.add_measurement(
        "max_relative_error",
        results[worst].worst.relative_error,
        "ratio",
        f"Largest relative error between autograd and finite-difference gradients over all tested operations (here: {worst})",
    )
    metrics.add_measurement(
        "min_cosine",
        min(r.min_cosine for r in results.values()),
        "",
        "Smallest cosine similarity between autograd and finite-difference gradients over all tested operations",
    )
    rows = [
        (name, len(r.comparisons), sum(s.num_checked for s in r.comparisons), r.relative_error, r.cosine)
        for name, r in results.items()
    ]
    columns = ("operation", "tensors", "elements checked", "relative error", "cosine")
    metrics.tables.append(
        AuditTable("ops", "Gradients of each operation by autograd against central differences in float64", columns, rows)
    )


def check_op(op: OpCase, seed: int) -> GradcheckResult:
    """Compare the gradients of a random linear combination of all outputs of `op`."""
    tensors = {name: tensor.detach().double().requires_grad_() for name, tensor in op.tensors.items()}
    weights = torch.randn_like(op.forward(tensors).detach())
    return compare_gradients(lambda: (op.forward(tensors) * weights).sum(), tensors, seed)


def all_ops() -> dict[str, OpCase]:
    """Return all operations by name, with inputs from torch's current generator."""
    return {**_arithmetic_ops(), **_matrix_ops(), **_layer_ops(), **_moe_ops(), **_vae_ops(), **_decoder_ops()}


def _arithmetic_ops() -> dict[str, OpCase]:
    pair = {"a": torch.randn(3, 4), "b": torch.rand(4) + 0.5}  # broadcast, and away from 0
    return {
        "reshape": OpCase({"a": torch.randn(3, 4)}, lambda t: t["a"].reshape(2, 6).square()),
        "add": OpCase(pair, lambda t: (t["a"] + t["b"]).square()),
        "subtract": OpCase(pair, lambda t: (t["a"] - t["b"]).square()),
        "multiply": OpCase(pair, lambda t: t["a"] * t["b"]),
        "divide": OpCase(pair, lambda t: t["a"] / t["b"]),
    }


def _matrix_ops() -> dict[str, OpCase]:
    ids = torch.tensor([3, 0, 3, 6])
    angles = rotary.rope_cos_sin(torch.arange(SEQ_LEN), HIDDEN, 10_000.0)
    return {
        "matmul_2d": OpCase({"a": torch.randn(3, 4), "b": torch.randn(4, 2)}, lambda t: t["a"] @ t["b"]),
        "matmul_batched": OpCase({"a": torch.randn(2, 3, 4), "b": torch.randn(2, 4, 2)}, lambda t: t["a"] @ t["b"]),
        "embedding": OpCase({"table": torch.randn(7, 4)}, lambda t: F.embedding(ids, t["table"]).square()),
        "rotary": OpCase(
            {"heads": torch.randn(1, 2, SEQ_LEN, HIDDEN)}, lambda t: rotary.apply_rotary_emb(t["heads"], angles).square()
        ),
    }


def _layer_ops() -> dict[str, OpCase]:
    """Return the layers of a transformer block."""
    states = torch.randn(1, SEQ_LEN, HIDDEN)
    angles = rotary.rope_cos_sin(torch.arange(SEQ_LEN), HIDDEN // 4, 10_000.0)
    attention = Attention(HIDDEN, 4, 2, 0.0, bias=True)
    return {
        "layer_norm": _module_op(nn.LayerNorm(HIDDEN), states),
        "rms_norm": _module_op(RMSNorm(HIDDEN, 1e-5), states),
        "gelu": _module_op(MLP(HIDDEN, 6), states),
        "swiglu": _module_op(SwiGLU(HIDDEN, 6), states),
        "attention": _module_op(attention, states, angles, None, None),
    }


def _moe_ops() -> dict[str, OpCase]:
    states = torch.randn(2 * SEQ_LEN, HIDDEN)
    router, experts = Router(HIDDEN, 4, 2, use_expert_bias=False), Experts(4, HIDDEN, 6)
    return {
        "router": _module_op(_RouterWithLosses(router), states),
        "experts": _module_op(_MixtureOfExperts(router, experts), states),
    }


def _vae_ops() -> dict[str, OpCase]:
    """Return the operation that only a variational autoencoder has."""
    return {"variational": _module_op(_Variational(3), torch.randn(SEQ_LEN, HIDDEN))}


def _decoder_ops() -> dict[str, OpCase]:
    """Return complete decoders with their loss."""
    return {
        name: _module_op(_DecoderLoss(tiny_decoder(style, VOCAB_SIZE, SEQ_LEN)), None)
        for name, style in (("gpt", "gpt2"), ("llama", "llama"))
    }


def tiny_decoder(style: str, vocab_size: int, max_seq_len: int) -> Decoder:
    """Build a decoder of two blocks in the style of GPT-2 or Llama."""

    def norm() -> RMSNorm | nn.LayerNorm:
        return nn.LayerNorm(HIDDEN) if style == "gpt2" else RMSNorm(HIDDEN, 1e-5)

    def block() -> TransformerBlock:
        feed_forward = MLP(HIDDEN, 6) if style == "gpt2" else SwiGLU(HIDDEN, 6)
        return TransformerBlock(norm(), Attention(HIDDEN, 4, 4, 0.0, bias=style == "gpt2"), norm(), feed_forward, 0.0)

    theta = None if style == "gpt2" else 10_000.0
    return Decoder(vocab_size, HIDDEN, max_seq_len, [block(), block()], norm(), tie_word_embeddings=True, rope_theta=theta)


class _RouterWithLosses(nn.Module):
    """Return the weights and the losses of a router."""

    def __init__(self, router: Router) -> None:
        super().__init__()
        self.router = router

    def forward(self, states_ND: Tensor) -> Tensor:
        routing = self.router(states_ND)
        return torch.cat([routing.weights_NK.flatten(), load_balancing_loss(routing)[None], z_loss(routing)[None]])


class _MixtureOfExperts(nn.Module):
    """Route states to experts."""

    def __init__(self, router: Router, experts: Experts) -> None:
        super().__init__()
        self.router, self.experts = router, experts

    def forward(self, states_ND: Tensor) -> Tensor:
        routing = self.router(states_ND)
        output_ND: Tensor = self.experts(states_ND, routing.topk_ids_NK, routing.weights_NK)
        return output_ND


class _Variational(nn.Module):
    """Return reconstruction errors and KL divergences of an autoencoder.

    The noise is fixed; the divergence is from a standard normal. Kingma and Welling 2014, arXiv 1312.6114, equation 10.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Linear(HIDDEN, 2 * latent), nn.Linear(latent, HIDDEN)
        self.register_buffer("noise_NZ", torch.randn(SEQ_LEN, latent), persistent=False)

    def forward(self, states_ND: Tensor) -> Tensor:
        mean_NZ, log_variance_NZ = self.encoder(states_ND).chunk(2, -1)
        reconstruction_ND = self.decoder(mean_NZ + (0.5 * log_variance_NZ).exp() * self.get_buffer("noise_NZ"))
        divergence_NZ = 0.5 * (mean_NZ.square() + log_variance_NZ.exp() - 1 - log_variance_NZ)
        return torch.cat([(reconstruction_ND - states_ND).square().flatten(), divergence_NZ.sum(-1)])


class _DecoderLoss(nn.Module):
    """Compute the cross-entropy of a decoder on a fixed sequence."""

    def __init__(self, model: Decoder) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("tokens_T", torch.randint(VOCAB_SIZE, (SEQ_LEN + 1,)), persistent=False)

    def forward(self) -> Tensor:
        tokens_T = self.get_buffer("tokens_T")
        states_BTD, _ = self.model.hidden_states(tokens_T[None, :-1])
        return cross_entropy(states_BTD.flatten(0, 1), self.model.lm_head_weight, tokens_T[1:], -100)


def _module_op(module: nn.Module, states: Tensor | None, *extra_inputs: object) -> OpCase:
    """Return `module` applied to `states` (None: no input) as an operation.

    Its inputs are the randomised parameters and the states.
    """
    module = module.double()
    for parameter in module.parameters():
        nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.5)
    parameters = {name: parameter.detach() for name, parameter in module.named_parameters()}

    def forward(tensors: NamedTensors) -> Tensor:
        weights = {name: tensor for name, tensor in tensors.items() if name != "states"}
        inputs = () if states is None else (tensors["states"],)
        output = torch.func.functional_call(module, weights, (*inputs, *extra_inputs))
        output_X: Tensor = output[0] if isinstance(output, tuple) else output
        return output_X

    return OpCase(parameters if states is None else {**parameters, "states": states}, forward)
