"""What lives through a run: the net, its optimizers, its monitors and how far it is; a checkpoint of all that, and back."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core import hashing, rng
from provenlm.core.errors import UserError
from provenlm.models.common.objective import Batch, Objective
from provenlm.training import rng_state
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config import Settings
from provenlm.training.distributed.fsdp import cut_like, whole
from provenlm.training.distributed.process_group import Crew
from provenlm.training.oom_backoff import Room
from provenlm.training.optim import factory as optim
from provenlm.training.optim import lr_scheduler
from provenlm.training.optim.ema import Average
from provenlm.training.optim.grad_scaler import Scaler
from provenlm.training.step import GoBack, Monitor


@dataclass
class State:
    """`slower`: factors on the rates, each with the step up to which it holds."""

    model: nn.Module
    objectives: Sequence[Objective]
    optimizers: list[list[torch.optim.Optimizer]]
    monitors: Sequence[Monitor]
    settings: Settings
    crew: Crew
    step: int = 0
    position: int = 0  # rows drawn or passed over
    slower: list[tuple[float, int]] = field(default_factory=list)
    room: Room = field(init=False)
    held_out_room: Room = field(init=False)
    scaler: Scaler = field(init=False)
    average: Average | None = field(init=False)

    def __post_init__(self) -> None:
        self.scaler = Scaler(self.settings.precision)
        self.average = None if self.settings.ema is None else Average(self.model, self.settings.ema)
        self.room, self.held_out_room = Room(self.settings.most_rows), Room(self.settings.most_rows)

    @property
    def names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.model.named_parameters()}

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def share(self) -> float:
        """The next step's share of the peak rates: what the schedule says, and less for a while after going back."""
        share = lr_scheduler.share(self.settings.schedule, self.step, self.settings.total_steps)
        for factor, until in self.slower:
            share *= factor if self.step < until else 1.0
        return share

    def judged(self) -> AbstractContextManager[None]:
        """Within the block the net has the weights that are published."""
        return nullcontext() if self.average is None else self.average.shown()

    def snapshot(self) -> Checkpoint:
        """Everything that decides what comes next, in the first process; what the net holds in parts is brought together for it, so all
        must ask. Tensors are not copied: copy or write them before the next step.

        `model` is what is published; where that is an average, `trained` is what training goes on from.
        """
        remembered = {
            f"{objective.name}/{name}": tensor
            for objective, own in zip(self.objectives, self.optimizers, strict=True)
            for name, tensor in optim.state(own, self.names).items()
        }
        torch_random, random_facts = self.crew.gathered(*rng_state.take())
        facts = {
            "step": self.step,
            "position": self.position,
            "slower": self.slower,
            "room": [self.room.rows, self.held_out_room.rows],
            "scaler": [self.scaler.scale, self.scaler.since],
            "monitors": [monitor.state() for monitor in self.monitors],
            "random": random_facts,
            **_fixed(self.settings),
        }
        tensors = {"model": self.model.state_dict(), "optimizer": remembered}
        if self.average is not None:
            tensors = {**tensors, "model": self.average.state(), "trained": tensors["model"]}
        return Checkpoint({**{file: _whole(named, self.crew) for file, named in tensors.items()}, "random": torch_random}, facts)

    def evidence(self, batch: Batch, random: tuple[Mapping[str, Tensor], Any], facts: Mapping[str, Any]) -> Checkpoint:
        """The weights, a batch, and the random states of the first process before it was computed: all that a step's losses and
        gradients depend on, but for the draws of dropout in other processes."""
        tensors, random_facts = random
        rows = {each.name: value for each in fields(batch) if isinstance(value := getattr(batch, each.name), Tensor)}
        model = _whole(self.model.state_dict(), self.crew)
        return Checkpoint({"model": model, "batch": rows, "random": tensors}, {**facts, "random": random_facts})

    def seed(self, *names: object) -> None:
        """Start this process's random generators anew; those of no two processes give the same."""
        others = (self.crew.rank,) if self.crew.rank else ()
        rng_state.seed_all(rng.seed_of(self.settings.seed, "steps", *others, *names))

    def restore(self, checkpoint: Checkpoint) -> None:
        """Become what `snapshot` saw. UserError if that was under other settings or another number of threads."""
        facts = checkpoint.facts
        for key, value in _fixed(self.settings).items():
            if facts[key] != value:
                raise UserError(f"the checkpoint was made with {key} {facts[key]}, this run has {value}; start anew")
        held, trained = self.model.state_dict(), checkpoint.tensors.get("trained", checkpoint.tensors["model"])
        self.model.load_state_dict({name: cut_like(tensor, held[name]) for name, tensor in trained.items()})
        if self.average is not None:
            self.average.restore(checkpoint.tensors["model"])
        for objective, own in zip(self.objectives, self.optimizers, strict=True):
            prefix = f"{objective.name}/"
            mine = {k.removeprefix(prefix): v for k, v in checkpoint.tensors["optimizer"].items() if k.startswith(prefix)}
            optim.restore(own, self.names, mine)
        for monitor, state in zip(self.monitors, facts["monitors"], strict=True):
            monitor.restore(state)
        self.step, self.position = facts["step"], facts["position"]
        self.scaler.scale, self.scaler.since = facts["scaler"]
        self.slower = [(factor, until) for factor, until in facts["slower"]]
        self.room, self.held_out_room = (Room(rows) for rows in facts["room"])
        drawing = self.crew.mine(checkpoint.tensors["random"], facts["random"])
        if drawing is None:
            self.seed(self.step)  # there were fewer processes when the checkpoint was made
        else:
            rng_state.give_back(*drawing)  # last: what came before may draw

    def go_back(self, good: Checkpoint, asked: GoBack) -> str:
        """Become `good`, but stay where we are in the data and go on more slowly; in words what was done."""
        before, position, slower, rooms = self.step, self.position, self.slower, (self.room, self.held_out_room)
        self.restore(good)
        self.room, self.held_out_room = rooms
        passed = position - self.position
        self.position = position
        self.slower = [*slower, (asked.slower, self.step + asked.steps)]
        return (
            f"{asked.why}; went back from step {before} to {self.step}, past {passed} rows, "
            f"rates × {asked.slower:g} for {asked.steps} steps"
        )


def _whole(tensors: Mapping[str, Tensor], crew: Crew) -> dict[str, Tensor]:
    """Those that are in parts leave the device one by one, because it may not hold them all whole; only the first process keeps them."""
    if not crew.sharded:
        return dict(tensors)
    return {name: held.cpu() for name, tensor in tensors.items() if (held := whole(tensor)) is not None and crew.first}


def _fixed(settings: Settings) -> dict[str, object]:
    """What must be the same for a resumed run to go on; with as many processes it gives the same bits."""
    return {"threads": torch.get_num_threads(), "settings": hashing.of_json(settings.deciding)}
