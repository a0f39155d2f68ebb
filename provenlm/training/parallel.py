"""How many processes train together in, a crew out: each computes its part of every batch, and all end a step with the same weights.

The gradient is the sum over all parts, whoever computed them, so that N processes give the weights of one up to the order of sums.
The first process alone sees the disk and the outside; what the others need of it comes through here. Processes find each other
by the variables that torchrun sets; without those the first one starts the others itself.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

import torch
from safetensors.torch import load, save
from torch import Tensor, distributed, nn

from provenlm.core.errors import UserError
from provenlm.training.checkpoint import Checkpoint

P = TypeVar("P")
BUCKET = 25 * 2**20  # bytes that are summed at once, as torch's DistributedDataParallel does
SETTLING = 0.5  # seconds, after which a process that is gone is known to be
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


@dataclass(frozen=True)
class Crew:
    """`rank` of `size` processes; the first is rank 0. A crew of one does nothing."""

    rank: int
    size: int
    device: torch.device

    def own(self, parts: Iterable[tuple[P, float]]) -> list[tuple[P, float]]:
        """This process's share of the parts of a batch. Where there are fewer than processes, a part again that weighs nothing."""
        every = list(parts)
        if self.rank < len(every) or not every:
            return every[self.rank :: self.size]
        return [(every[self.rank % len(every)][0], 0.0)]

    def add(self, parameters: Sequence[nn.Parameter], sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Gradients become their sum over all processes, in place, and so does what is given back of `sums`.

        A parameter that has a gradient nowhere keeps none.
        """
        if self.size == 1:
            return dict(sums)
        there = torch.tensor([float(p.grad is not None) for p in parameters], device=self.device)
        facts = torch.cat([torch.stack([sums[name].float() for name in sums]), there])
        distributed.all_reduce(facts)
        with_gradient = [p for p, count in zip(parameters, facts[len(sums) :].tolist(), strict=True) if count]
        for parameter in with_gradient:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        _sum([parameter.grad for parameter in with_gradient if parameter.grad is not None])
        return dict(zip(sums, facts[: len(sums)], strict=True))

    def any(self, here: bool) -> bool:
        """Whether it is so in any process; all must ask."""
        if self.size == 1:
            return here
        flag = torch.tensor([int(here)], device=self.device)
        distributed.all_reduce(flag, distributed.ReduceOp.MAX)
        return bool(flag.item())

    def told(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """What the first process has, in every process; the others' own is not looked at. All must ask."""
        if self.size == 1:
            return checkpoint
        names: list[str] = []
        if self.rank == 0 and checkpoint is not None:
            names = list(checkpoint.tensors)
        facts = self._bytes(json.dumps([names, checkpoint.facts if checkpoint else None]).encode())
        names, known = json.loads(facts)
        if known is None:
            return None
        mine = checkpoint.tensors if checkpoint is not None and self.rank == 0 else {name: {} for name in names}
        return Checkpoint({name: load(self._bytes(save(_plain(mine[name])))) for name in names}, known)

    def _bytes(self, data: bytes) -> bytes:
        """The first process's `data`."""
        length = torch.tensor([len(data)], device=self.device)
        distributed.broadcast(length, 0)
        whole = (
            torch.frombuffer(bytearray(data), dtype=torch.uint8) if self.rank == 0 else torch.empty(int(length), dtype=torch.uint8)
        )
        whole = whole.to(self.device)
        distributed.broadcast(whole, 0)
        return whole.cpu().numpy().tobytes()


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


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
def crew(size: int, device: torch.device, command: Sequence[str]) -> Iterator[Crew]:
    """This process's place among `size`, for as long as the block lasts.

    Under torchrun that is what torchrun says; UserError if it started another number. Else this process becomes the first and runs
    `command` for each of the others, which end with it.
    """
    started = os.environ.get("WORLD_SIZE")
    if started is not None and int(started) != size:
        raise UserError(f"train.processes: {size}, but torchrun started {started}; --nproc-per-node {size} would be right")
    if size == 1:
        yield Crew(0, 1, device)
        return
    others = [] if started is not None else _others(size, command)
    rank, local = int(os.environ["RANK"]), int(os.environ["LOCAL_RANK"])
    here = torch.device("cuda", local) if device.type == "cuda" else device
    if rank:
        _leave_signals_to_the_first()
    try:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=10))
        yield Crew(rank, size, here)
        distributed.destroy_process_group()
    except RuntimeError as error:
        if rank:
            sys.exit(f"process {rank} of {size} ends: {str(error).splitlines()[0]}")
        if gone := _gone(others):
            raise UserError(f"{gone}; the next run goes on from the last checkpoint") from error
        raise
    finally:
        for other in others:
            other.kill()
            other.wait()


def _others(size: int, command: Sequence[str]) -> list[subprocess.Popen[bytes]]:
    """The processes of ranks 1 to `size` - 1, told where to find this one, which is told the same."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    # Port 0: the kernel gives one that is free; the store stays open, so nobody can take it in between.
    store = distributed.TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]
    _kept.append(store)
    common = {
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
    }
    os.environ.update({**common, "RANK": "0", "LOCAL_RANK": "0"})
    return [
        subprocess.Popen(command, env={**os.environ, "RANK": str(rank), "LOCAL_RANK": str(rank)}, start_new_session=True)
        for rank in range(1, size)
    ]


_kept: list[object] = []  # a store lives as long as the process whose crew meets there


def _leave_signals_to_the_first() -> None:
    """A signal to the whole group asks the first process, which tells the others when to end; alone they would be missed."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _gone(others: Sequence[subprocess.Popen[bytes]]) -> str:
    """Which of the other processes have ended, and how."""
    time.sleep(SETTLING)
    return ", ".join(
        f"process {rank} ended with {other.poll()}" for rank, other in enumerate(others, 1) if other.poll() is not None
    )
