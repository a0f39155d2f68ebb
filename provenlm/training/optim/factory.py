"""Build the optimizers of an objective; save and restore their state by name."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor, nn

from provenlm.core.errors import CheckpointError
from provenlm.models.common.objective import Objective
from provenlm.training.config_sections import OptimizerConfig, ParamGroupConfig
from provenlm.training.distributed.fsdp import shard_like
from provenlm.training.optim.lion import Lion
from provenlm.training.optim.muon import Muon
from provenlm.training.optim.sgd import SGD


def build_optimizers(objective: Objective, config: OptimizerConfig) -> list[torch.optim.Optimizer]:
    """Build one optimizer for each parameter group that has parameters.

    Raises ValueError if the objective has no trainable parameters.
    """
    optimizers = []
    for group_name, params in objective.param_groups.items():
        if trainable := [p for p in params if p.requires_grad]:
            optimizers.append(_build_optimizer(trainable, config.group_for(group_name), config.lr_factors.get(objective.name, 1.0)))
    if not optimizers:
        raise ValueError(f"objective {objective.name!r} has no trainable parameters")
    return optimizers


def _build_optimizer(params: list[nn.Parameter], group: ParamGroupConfig, lr_factor: float) -> torch.optim.Optimizer:
    """Build the optimizer of one parameter group, with `lr_factor` times its learning rate."""
    group = replace(group, lr=group.lr * lr_factor)
    optimizer: torch.optim.Optimizer
    if group.name == "muon":
        optimizer = Muon(params, group.lr, group.betas[0], group.weight_decay)
    elif group.name == "lion":
        optimizer = Lion(params, group.lr, (group.betas[0], group.betas[1]), group.weight_decay)
    elif group.name == "sgd":
        optimizer = SGD(params, group.lr, group.betas[0], group.weight_decay)
    else:
        betas = (group.betas[0], group.betas[1])
        optimizer = torch.optim.AdamW(params, group.lr, betas, eps=1e-10, weight_decay=group.weight_decay, fused=True)
    for param_group in optimizer.param_groups:
        param_group["peak_lr"] = group.lr
    return optimizer


def set_lr(optimizers: Iterable[torch.optim.Optimizer], lr_scale: float) -> None:
    """Set every learning rate to `lr_scale` times its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak_lr"] * lr_scale


def optimizer_state(optimizers: Iterable[torch.optim.Optimizer], names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """Return every tensor of the optimizers' state, as `<parameter>/<key>`."""
    return {
        f"{names[parameter]}/{key}": value
        for optimizer in optimizers
        for parameter in _optimizer_params(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def load_optimizer_state(
    optimizers: Iterable[torch.optim.Optimizer], names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Restore what `optimizer_state` returned.

    Raises CheckpointError if a tensor belongs to no parameter.
    """
    owners = {names[p]: (optimizer, p) for optimizer in optimizers for p in _optimizer_params(optimizer)}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        if parameter_name not in owners:
            raise CheckpointError(f"checkpoint: optimizer state for {parameter_name!r}, which this model does not have")
        optimizer, parameter = owners[parameter_name]
        # Scalars (the step count) stay on their device; other tensors are placed like the parameter.
        optimizer.state[parameter][key] = shard_like(tensor.clone(), parameter) if tensor.ndim else tensor.clone()


def _optimizer_params(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    """Yield the parameters of an optimizer."""
    for group in optimizer.param_groups:
        yield from group["params"]
