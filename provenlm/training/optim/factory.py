"""An objective's parameters by role and the settings of each role in, torch optimizers out; their state by name and back."""

from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor, nn

from provenlm.models.common.objective import Objective
from provenlm.training.config_sections import Group, Optimizer
from provenlm.training.distributed.fsdp import cut_like
from provenlm.training.optim.lion import Lion
from provenlm.training.optim.muon import Muon
from provenlm.training.optim.sgd import SGD


def optimizers_for(objective: Objective, settings: Optimizer) -> list[torch.optim.Optimizer]:
    """One optimizer for each role that has parameters. ValueError if an objective has none at all."""
    made = []
    for role, parameters in objective.parameters.items():
        if trainable := [p for p in parameters if p.requires_grad]:
            made.append(_optimizer(trainable, settings.of(role)))
    if not made:
        raise ValueError(f"objective {objective.name!r} has no trainable parameters")
    return made


def _optimizer(parameters: list[nn.Parameter], group: Group) -> torch.optim.Optimizer:
    made: torch.optim.Optimizer
    if group.kind == "muon":
        made = Muon(parameters, group.rate, group.betas[0], group.weight_decay)
    elif group.kind == "lion":
        made = Lion(parameters, group.rate, (group.betas[0], group.betas[1]), group.weight_decay)
    elif group.kind == "sgd":
        made = SGD(parameters, group.rate, group.betas[0], group.weight_decay)
    else:
        betas = (group.betas[0], group.betas[1])
        made = torch.optim.AdamW(parameters, group.rate, betas, eps=1e-10, weight_decay=group.weight_decay, fused=True)
    for each in made.param_groups:
        each["peak"] = group.rate
    return made


def set_rates(optimizers: Iterable[torch.optim.Optimizer], share: float) -> None:
    """Every group's rate becomes `share` of its peak."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * share


def state(optimizers: Iterable[torch.optim.Optimizer], names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """Every tensor that the optimizers remember, under `<parameter>/<what>`."""
    return {
        f"{names[parameter]}/{key}": value
        for optimizer in optimizers
        for parameter in _parameters(optimizer)
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def restore(optimizers: Iterable[torch.optim.Optimizer], names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]) -> None:
    """Give back what `state` took. ValueError if a tensor is for a parameter that is not here."""
    owners = {names[p]: (optimizer, p) for optimizer in optimizers for p in _parameters(optimizer)}
    for name, tensor in tensors.items():
        parameter_name, _, key = name.rpartition("/")
        if parameter_name not in owners:
            raise ValueError(f"the checkpoint has optimizer state for {parameter_name!r}, which this net has not")
        optimizer, parameter = owners[parameter_name]
        # The count of steps stays where it was; what has the parameter's shape lives where the parameter lives.
        optimizer.state[parameter][key] = cut_like(tensor.clone(), parameter) if tensor.ndim else tensor.clone()


def _parameters(optimizer: torch.optim.Optimizer) -> Iterator[nn.Parameter]:
    for group in optimizer.param_groups:
        yield from group["params"]
