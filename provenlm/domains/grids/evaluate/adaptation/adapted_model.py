"""Train a model on one task, and give the base back unchanged.

with adapted_model(model, AdapterConfig()) as adapted:
    fine_tune(adapted, …)
    …  # `model` predicts with its adapters
# `model` is the base again, byte for byte
"""

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core.errors import ConfigError, ProvenlmError
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig
from provenlm.domains.grids.evaluate.adaptation.target_layers import resolve_target_modules, resolve_trained_modules
from provenlm.domains.grids.evaluate.adaptation.weights_digest import weights_digest
from provenlm.models.common.layers.feed_forward import SwiGLU


class AdapterLeakError(ProvenlmError):
    """Report that an adaptation left a trace in the base model."""


@dataclass
class AdaptedModel:
    """Hold a model whose `trainable` parameters a task may train.

    `targets` are the names of the layers with adapters and `base_digest` is the digest of the base weights; `tuner` is peft's, None
    without adapters.
    """

    model: nn.Module
    trainable: dict[str, nn.Parameter]
    targets: tuple[str, ...]
    base_digest: str
    tuner: Any | None
    initial: dict[str, Tensor]

    @property
    def num_trainable_params(self) -> int:
        """Count the parameters that may change."""
        return sum(parameter.numel() for parameter in self.trainable.values())

    @torch.no_grad()
    def max_weight_change(self) -> float:
        """Return the largest absolute change of a trainable parameter."""
        changes = (
            (parameter.detach().cpu().double() - self.initial[name].double()).abs().max()
            for name, parameter in self.trainable.items()
        )
        return max((float(change) for change in changes), default=0.0)

    @torch.no_grad()
    def merge_difference(self, forward: Callable[[], Tensor]) -> float:
        """Return the largest difference of outputs with merged and separate adapters.

        `forward()` computes outputs of the model. The base weights are copied back afterwards, because adding and subtracting the
        adapters rounds.
        """
        if self.tuner is None:
            return 0.0
        was_training = self.model.training
        self.model.eval()
        separate = forward().float()
        weights = [self.model.get_parameter(f"{name}.base_layer.weight") for name in self.targets]
        copies = [weight.detach().to("cpu", copy=True) for weight in weights]
        try:
            self.tuner.merge_adapter()
            merged = forward().float()
            self.tuner.unmerge_adapter()
        finally:
            for weight, copy in zip(weights, copies, strict=True):
                weight.copy_(copy)
            self.model.train(was_training)
        return float((merged - separate).abs().max())


@contextmanager
def adapted_model(model: nn.Module, config: AdapterConfig) -> Iterator[AdaptedModel]:
    """Yield `model` with trainable weights as configured; take them away at the end.

    Afterwards modules, weights, `requires_grad`, gradients and training mode are those from before. Raises ConfigError if nothing would
    be trainable, and AdapterLeakError if the model has adapters already or the base did not come back.
    """
    if leftovers := adapter_modules(model):
        raise AdapterLeakError(f"{type(model).__name__}: must be free of adapters before a task, got {leftovers[0]}")
    modules = module_types(model)
    digest = weights_digest(model)
    requires_grad = {id(parameter): parameter.requires_grad for parameter in model.parameters()}
    training = {name: module.training for name, module in model.named_modules()}
    adapted = _adapt(model, config, digest)
    try:
        yield adapted
    finally:
        remove_adapters(adapted)
        for parameter in model.parameters():
            parameter.grad = None
            parameter.requires_grad_(requires_grad.get(id(parameter), parameter.requires_grad))
        for name, module in model.named_modules():
            module.training = training.get(name, module.training)
    check_base(model, modules, digest)


def _adapt(model: nn.Module, config: AdapterConfig, digest: str) -> AdaptedModel:
    if config.method == "none":
        return AdaptedModel(model, {}, (), digest, None, {})
    tuner, targets = inject_adapters(model, config) if config.method == "lora" else (None, ())
    if config.method == "full":
        model.requires_grad_(True)
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    initial = {name: parameter.detach().to("cpu", copy=True) for name, parameter in trainable.items()}
    adapted = AdaptedModel(model, trainable, targets, digest, tuner, initial)
    if adapted.num_trainable_params == 0:
        raise ConfigError(f"adapter: {type(model).__name__} has no trainable parameter with method {config.method}")
    return adapted


def inject_adapters(model: nn.Module, config: AdapterConfig) -> tuple[Any, tuple[str, ...]]:
    """Add adapters to a model in place and freeze all else.

    Returns peft's tuner and the names of the adapted layers. Raises ConfigError if the adapted layers are not those of the config.
    """
    from peft import LoraConfig
    from peft.tuners.lora import LoraModel

    layers = resolve_target_modules(model, config.target_modules)
    trained = resolve_trained_modules(model, config.trained_modules)  # before the names change
    kinds = {type(layer).__name__ for layer in layers.values()}
    alpha: Any = config.alpha  # annotated as a whole number, used as a factor
    settings = LoraConfig(
        r=config.rank,
        lora_alpha=alpha,
        lora_dropout=config.dropout,
        target_modules=list(layers),
        fan_in_fan_out="Conv1D" in kinds,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(config.seed)
        if len(kinds) > 1:  # peft takes one value for all layers, corrects it for each, and warns of that
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        tuner = LoraModel(model, settings, "default")
    if set(tuner.targeted_module_names) != set(layers):
        tuner.unload()
        differing = sorted(set(tuner.targeted_module_names) ^ set(layers))
        raise ConfigError(f"target_modules: adapters and layers of {type(model).__name__} differ at {differing[0]}")
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()  # an optimizer loses small steps in half precision
    for parameter in trained.values():
        parameter.requires_grad_(True)
    call_layers_of_swiglu(model)
    return tuner, tuple(layers)


def call_layers_of_swiglu(model: nn.Module) -> None:
    """Let every `SwiGLU` call its layers.

    Its own forward pass multiplies by their weights in one step, which would leave adapters out.
    """

    def forward(mlp: SwiGLU, hidden_BTD: Tensor) -> tuple[Tensor, None]:
        """Compute down · (silu(gate · x) * (up · x)), layer by layer."""
        return mlp.down_proj(F.silu(mlp.gate_proj(hidden_BTD)) * mlp.up_proj(hidden_BTD)), None

    for module in model.modules():
        if isinstance(module, SwiGLU):
            module.forward = MethodType(forward, module)  # type: ignore[method-assign]


def remove_adapters(adapted: AdaptedModel) -> None:
    """Remove adapters and copy the weights of the base back that were trained in full."""
    with torch.no_grad():
        for name, parameter in adapted.trainable.items():
            parameter.copy_(adapted.initial[name])
    if adapted.tuner is not None:
        adapted.tuner.unload()
    for module in adapted.model.modules():
        if isinstance(module, SwiGLU):
            vars(module).pop("forward", None)


def adapter_modules(model: nn.Module) -> list[str]:
    """List the names of modules that are adapters of peft."""
    return [name for name, module in model.named_modules() if type(module).__module__.startswith("peft.")]


def module_types(model: nn.Module) -> list[tuple[str, str]]:
    """List name and class of every module."""
    return [(name, type(module).__name__) for name, module in model.named_modules()]


def check_base(model: nn.Module, modules: list[tuple[str, str]], digest: str) -> None:
    """Raise AdapterLeakError unless a model has these modules and this digest."""
    if differing := sorted(set(module_types(model)) ^ set(modules)):
        name, kind = differing[0]
        raise AdapterLeakError(f"{type(model).__name__}: module {name} ({kind}) differs from before the task")
    if (after := weights_digest(model)) != digest:
        raise AdapterLeakError(
            f"{type(model).__name__}: base weights must have digest {digest[:12]} after the task, got {after[:12]}"
        )
