"""What training makes small: cross-entropy of the next token."""

from collections.abc import Mapping
from functools import partial

from torch import Tensor, nn

from provenlm.models.common.layers.cross_entropy import smoothed_cross_entropy
from provenlm.models.common.layers.decoder import role_of
from provenlm.models.common.objective import Batch, Objective, Role
from provenlm.models.gpt.model import Decoder


def objectives(model: nn.Module, ignore: int) -> list[Objective]:
    """One: the next token. Targets equal to `ignore` carry no loss."""
    assert isinstance(model, Decoder)
    by_role: dict[Role, list[nn.Parameter]] = {"embedding": [], "matrix": [], "rest": []}
    for name, parameter in model.named_parameters():
        by_role[role_of(name)].append(parameter)
    return [Objective("next_token", by_role, partial(loss, model, ignore), "cross_entropy")]


def loss(model: Decoder, ignore: int, batch: Batch) -> Mapping[str, Tensor]:
    """`loss` is `cross_entropy`, in nats per target that counts, but for the smoothing that the batch asks for."""
    states_BTD, _ = model.states(batch.inputs_BT, documents_BT=batch.documents_BT)
    states_ND, targets_N = states_BTD.flatten(0, 1), batch.targets_BT.flatten()
    smoothed, nats = smoothed_cross_entropy(states_ND, model.head, targets_N, ignore, batch.smoothing)
    return {"loss": smoothed, "cross_entropy": nats}
