"""How many processes train together in, a crew out: each computes its part of every batch, and all end a step with the same weights.

The gradient is the sum over all parts, whoever computed them, so that N processes give the weights of one up to the order of sums.
The first process alone sees the disk and the outside; what the others need of it comes through here. Processes find each other
by the variables that torchrun sets (see workers.py).
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, distributed, nn

from provenlm.core.errors import UserError
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config_sections import Parallel
from provenlm.training.distributed.launcher import end_with_the_launcher

P = TypeVar("P")
BUCKET = 25 * 2**20  # bytes that are summed at once, as torch's DistributedDataParallel does
PATIENCE = timedelta(minutes=30)  # that one waits for another: the first may be writing a checkpoint


@dataclass(frozen=True)
class Crew:
    """`rank` of `size` processes; the first is rank 0. A crew of one does nothing. Whatever talks to others, all must call alike.

    ddp: each holds the whole net, and gradients are summed when all are there: torch's DistributedDataParallel begins during the
    backward pass, where a process that runs out of memory would leave the others waiting. fsdp2: see sharding.py.
    """

    rank: int
    size: int
    way: Literal["ddp", "fsdp2"]
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0

    @property
    def sharded(self) -> bool:
        """Whether each holds a part of the net; then every pass needs all, and no process may have fewer passes."""
        return self.size > 1 and self.way == "fsdp2"

    def own(self, parts: Iterable[tuple[P, float]]) -> list[tuple[P, float]]:
        """This process's share of the parts of a batch; where it must not be so few, a part again that weighs nothing."""
        every = list(parts)
        mine = every[self.rank :: self.size]
        least = -(-len(every) // self.size) if self.sharded else min(1, len(every))
        return mine + [(part, 0.0) for part, _ in every[: max(0, least - len(mine))]]

    def add(self, parameters: Sequence[nn.Parameter]) -> None:
        """Gradients become their sum over all processes, in place; a parameter that has one nowhere keeps none."""
        if self.size == 1 or self.sharded:  # torch has summed what is sharded
            return
        there = self.sums([float(p.grad is not None) for p in parameters])
        with_gradient = [p for p, count in zip(parameters, there, strict=True) if count]
        for parameter in with_gradient:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        _sum([parameter.grad for parameter in with_gradient if parameter.grad is not None])

    def sums(self, values: Sequence[float]) -> list[float]:
        """Each of the values summed over all processes, the same bits in all."""
        if self.size == 1:
            return list(values)
        both = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(both)
        return both.tolist()

    def said(self, values: Sequence[float]) -> list[float]:
        """The first process's values, in every process: what is decided by them is decided alike, whatever the machines."""
        if self.size == 1:
            return list(values)
        told = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(told, 0)
        return told.tolist()

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        return self.sums([float(here)])[0] > 0

    def told(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """What the first process has, in every process; the others' own is not looked at."""
        if self.size == 1:
            return checkpoint
        shapes: list[tuple[str, str, list[int], str]] = []
        if self.first and checkpoint is not None:
            shapes = [
                (file, name, list(t.shape), str(t.dtype)) for file, named in checkpoint.tensors.items() for name, t in named.items()
            ]
        shapes, facts = json.loads(self._bytes(json.dumps([shapes, checkpoint.facts if checkpoint else None]).encode()))
        if facts is None:
            return None
        tensors: dict[str, dict[str, Tensor]] = {}
        for file, name, shape, dtype in shapes:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            if self.first and checkpoint is not None:
                tensor = checkpoint.tensors[file][name].detach().cpu().contiguous()
            distributed.broadcast(tensor.view(-1).view(torch.uint8), 0)
            tensors.setdefault(file, {})[name] = tensor
        return Checkpoint(tensors, facts)

    def gathered(self, tensors: Mapping[str, Tensor], facts: Any) -> tuple[dict[str, Tensor], list[Any]]:
        """Every process's small tensors and JSON: the tensors of all but the first are named `<rank>/<name>`."""
        if self.size == 1:
            return dict(tensors), [facts]
        every = [self._bytes(data, rank) for rank in range(self.size) for data in (save(dict(tensors)), json.dumps(facts).encode())]
        named = {f"{f'{r}/' if r else ''}{name}": t for r in range(self.size) for name, t in load(every[2 * r]).items()}
        return named, [json.loads(said) for said in every[1::2]]

    def mine(self, tensors: Mapping[str, Tensor], facts: Sequence[Any]) -> tuple[dict[str, Tensor], Any] | None:
        """This process's own part of what `gathered` gave; None if there were fewer processes."""
        if self.rank >= len(facts):
            return None
        prefix = f"{self.rank}/" if self.rank else ""
        named = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        return {name: tensor for name, tensor in named.items() if "/" not in name}, facts[self.rank]

    def _bytes(self, data: bytes, source: int = 0) -> bytes:
        """The `data` of process `source`."""
        length = torch.tensor([len(data)])
        distributed.broadcast(length, source)
        mine = self.rank == source
        whole = torch.frombuffer(bytearray(data), dtype=torch.uint8) if mine else torch.empty(int(length), dtype=torch.uint8)
        distributed.broadcast(whole, source)
        return whole.numpy().tobytes()


ALONE = Crew(0, 1, "ddp", torch.device("cpu"))


def _sum(tensors: Sequence[Tensor]) -> None:
    """Each becomes its sum over all processes, through buffers of about `BUCKET` bytes of one type."""
    waiting: list[Tensor] = []
    for n, tensor in enumerate(tensors):
        waiting.append(tensor)
        size = sum(each.numel() * each.element_size() for each in waiting)
        if n + 1 == len(tensors) or size >= BUCKET or tensors[n + 1].dtype != tensor.dtype:
            flat = torch.cat([each.flatten() for each in waiting])
            distributed.all_reduce(flat)
            for each, summed in zip(waiting, torch.split(flat, [each.numel() for each in waiting]), strict=True):
                each.copy_(summed.view_as(each))
            waiting = []


@contextmanager
def crew(wanted: Parallel | None, device: torch.device) -> Iterator[Crew]:
    """This process's place among those that torchrun started, for as long as the block lasts; alone without torchrun.

    UserError if it started another number than `wanted`, or if the device knows no way to talk to others.
    """
    size, started = wanted.processes if wanted else 1, int(os.environ.get("WORLD_SIZE", "1"))
    if started != size:
        said = f"{{processes: {started}, way: ddp}}" if wanted is None else f"torchrun --nproc-per-node {size}"
        raise UserError(f"train.parallel: {size} process{'es' * (size > 1)}, but torchrun started {started}; {said} would be right")
    if wanted is None or size == 1:
        yield Crew(0, 1, "ddp", device)
        return
    end_with_the_launcher()
    rank, here = int(os.environ["RANK"]), _place(device, int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if here.type == "cuda" else "gloo", timeout=PATIENCE)
    try:
        yield Crew(rank, size, wanted.way, here)
    except SystemExit:
        distributed.destroy_process_group()
        raise
    except RuntimeError as error:  # nothing is put away then: that could wait for those that are gone
        if not _lost(error):
            raise
        if rank:
            sys.exit(1)  # the first says it
        raise UserError("another process is gone; the next run goes on from the last checkpoint") from error
    distributed.destroy_process_group()


def _place(device: torch.device, local_rank: int) -> torch.device:
    """The `local_rank`-th device of the wanted kind on this machine."""
    if device.type == "mps":
        raise UserError("train.parallel: processes talk through cpu or cuda, not mps; null would be right")
    if device.type != "cuda":
        return device
    if local_rank >= torch.cuda.device_count():
        raise UserError(f"train.parallel: process {local_rank} of this machine has no GPU; it has {torch.cuda.device_count()}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def first_here() -> bool:
    """Whether no other process of this training on this machine comes before this one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _lost(error: RuntimeError) -> bool:
    """Whether it is what a process is told whose partner ended: it has no class of its own, only words."""
    return any(word in str(error).lower() for word in ("gloo", "nccl", "connection"))
