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

from provenlm.core.errors import ProvenlmError
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config_sections import DistributedConfig
from provenlm.training.distributed.launcher import exit_with_parent

P = TypeVar("P")
BUCKET_BYTES = 25 * 2**20  # bytes that are summed at once, as torch's DistributedDataParallel does
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # that one waits for another: the first may be writing a checkpoint


@dataclass(frozen=True)
class DistributedContext:
    """`rank` of `size` processes; the first is rank 0. A crew of one does nothing. Whatever talks to others, all must call alike.

    ddp: each holds the whole net, and gradients are summed when all are there: torch's DistributedDataParallel begins during the
    backward pass, where a process that runs out of memory would leave the others waiting. fsdp2: see sharding.py.
    """

    rank: int
    world_size: int
    strategy: Literal["ddp", "fsdp2"]
    device: torch.device

    @property
    def is_main(self) -> bool:
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Whether each holds a part of the net; then every pass needs all, and no process may have fewer passes."""
        return self.world_size > 1 and self.strategy == "fsdp2"

    def shard(self, parts: Iterable[tuple[P, float]]) -> list[tuple[P, float]]:
        """This process's share of the parts of a batch; where it must not be so few, a part again that weighs nothing."""
        all_parts = list(parts)
        local_parts = all_parts[self.rank :: self.world_size]
        min_parts = -(-len(all_parts) // self.world_size) if self.is_sharded else min(1, len(all_parts))
        return local_parts + [(part, 0.0) for part, _ in all_parts[: max(0, min_parts - len(local_parts))]]

    def all_reduce_grads(self, params: Sequence[nn.Parameter]) -> None:
        """Gradients become their sum over all processes, in place; a parameter that has one nowhere keeps none."""
        if self.world_size == 1 or self.is_sharded:  # torch has summed what is sharded
            return
        grad_counts = self.all_reduce([float(p.grad is not None) for p in params])
        with_gradient = [p for p, count in zip(params, grad_counts, strict=True) if count]
        for parameter in with_gradient:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        _all_reduce_buckets([parameter.grad for parameter in with_gradient if parameter.grad is not None])

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """Each of the values summed over all processes, the same bits in all."""
        if self.world_size == 1:
            return list(values)
        buffer = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(buffer)
        return buffer.tolist()

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """The first process's values, in every process: what is decided by them is decided alike, whatever the machines."""
        if self.world_size == 1:
            return list(values)
        buffer = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(buffer, 0)
        return buffer.tolist()

    def any_rank(self, value: bool) -> bool:
        """Whether it is so in any process."""
        return self.all_reduce([float(value)])[0] > 0

    def broadcast_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """What the first process has, in every process; the others' own is not looked at."""
        if self.world_size == 1:
            return checkpoint
        shapes: list[tuple[str, str, list[int], str]] = []
        if self.is_main and checkpoint is not None:
            shapes = [
                (file, name, list(t.shape), str(t.dtype))
                for file, state_dict in checkpoint.state_dicts.items()
                for name, t in state_dict.items()
            ]
        shapes, metadata = json.loads(
            self._broadcast_bytes(json.dumps([shapes, checkpoint.metadata if checkpoint else None]).encode())
        )
        if metadata is None:
            return None
        state_dicts: dict[str, dict[str, Tensor]] = {}
        for file, name, shape, dtype in shapes:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype.removeprefix("torch.")))
            if self.is_main and checkpoint is not None:
                tensor = checkpoint.state_dicts[file][name].detach().cpu().contiguous()
            distributed.broadcast(tensor.view(-1).view(torch.uint8), 0)
            state_dicts.setdefault(file, {})[name] = tensor
        return Checkpoint(state_dicts, metadata)

    def all_gather(self, tensors: Mapping[str, Tensor], host_state: Any) -> tuple[dict[str, Tensor], list[Any]]:
        """Every process's small tensors and JSON: the tensors of all but the first are named `<rank>/<name>`."""
        if self.world_size == 1:
            return dict(tensors), [host_state]
        payloads = [
            self._broadcast_bytes(data, rank)
            for rank in range(self.world_size)
            for data in (save(dict(tensors)), json.dumps(host_state).encode())
        ]
        named_tensors = {
            f"{f'{r}/' if r else ''}{name}": t for r in range(self.world_size) for name, t in load(payloads[2 * r]).items()
        }
        return named_tensors, [json.loads(payload) for payload in payloads[1::2]]

    def local_part(self, tensors: Mapping[str, Tensor], host_states: Sequence[Any]) -> tuple[dict[str, Tensor], Any] | None:
        """This process's own part of what `gathered` gave; None if there were fewer processes."""
        if self.rank >= len(host_states):
            return None
        prefix = f"{self.rank}/" if self.rank else ""
        rank_tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        return {name: tensor for name, tensor in rank_tensors.items() if "/" not in name}, host_states[self.rank]

    def _broadcast_bytes(self, data: bytes, source: int = 0) -> bytes:
        """The `data` of process `source`."""
        num_bytes = torch.tensor([len(data)])
        distributed.broadcast(num_bytes, source)
        is_source = self.rank == source
        buffer = (
            torch.frombuffer(bytearray(data), dtype=torch.uint8) if is_source else torch.empty(int(num_bytes), dtype=torch.uint8)
        )
        distributed.broadcast(buffer, source)
        return buffer.numpy().tobytes()


SINGLE_PROCESS = DistributedContext(0, 1, "ddp", torch.device("cpu"))


def _all_reduce_buckets(tensors: Sequence[Tensor]) -> None:
    """Each becomes its sum over all processes, through buffers of about `BUCKET` bytes of one type."""
    bucket: list[Tensor] = []
    for n, tensor in enumerate(tensors):
        bucket.append(tensor)
        bucket_bytes = sum(member.numel() * member.element_size() for member in bucket)
        if n + 1 == len(tensors) or bucket_bytes >= BUCKET_BYTES or tensors[n + 1].dtype != tensor.dtype:
            flat = torch.cat([member.flatten() for member in bucket])
            distributed.all_reduce(flat)
            for member, summed in zip(bucket, torch.split(flat, [member.numel() for member in bucket]), strict=True):
                member.copy_(summed.view_as(member))
            bucket = []


@contextmanager
def init_distributed(config: DistributedConfig | None, device: torch.device) -> Iterator[DistributedContext]:
    """This process's place among those that torchrun started, for as long as the block lasts; alone without torchrun.

    ProvenlmError if it started another number than `wanted`, or if the device knows no way to talk to others.
    """
    world_size, launched_size = config.world_size if config else 1, int(os.environ.get("WORLD_SIZE", "1"))
    if launched_size != world_size:
        suggestion = f"{{processes: {launched_size}, way: ddp}}" if config is None else f"torchrun --nproc-per-node {world_size}"
        raise ProvenlmError(
            f"train.parallel: {world_size} process{'es' * (world_size > 1)}, but torchrun started {launched_size}; {suggestion} would be right"
        )
    if config is None or world_size == 1:
        yield DistributedContext(0, 1, "ddp", device)
        return
    exit_with_parent()
    rank, local_device = int(os.environ["RANK"]), _local_device(device, int(os.environ["LOCAL_RANK"]))
    distributed.init_process_group("cpu:gloo,cuda:nccl" if local_device.type == "cuda" else "gloo", timeout=COLLECTIVE_TIMEOUT)
    try:
        yield DistributedContext(rank, world_size, config.strategy, local_device)
    except SystemExit:
        distributed.destroy_process_group()
        raise
    except RuntimeError as error:  # nothing is put away then: that could wait for those that are gone
        if not _is_peer_lost(error):
            raise
        if rank:
            sys.exit(1)  # the first says it
        raise ProvenlmError("another process is gone; the next run goes on from the last checkpoint") from error
    distributed.destroy_process_group()


def _local_device(device: torch.device, local_rank: int) -> torch.device:
    """The `local_rank`-th device of the wanted kind on this machine."""
    if device.type == "mps":
        raise ProvenlmError("train.parallel: processes talk through cpu or cuda, not mps; null would be right")
    if device.type != "cuda":
        return device
    if local_rank >= torch.cuda.device_count():
        raise ProvenlmError(f"train.parallel: process {local_rank} of this machine has no GPU; it has {torch.cuda.device_count()}")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def is_local_main() -> bool:
    """Whether no other process of this training on this machine comes before this one."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _is_peer_lost(error: RuntimeError) -> bool:
    """Whether it is what a process is told whose partner ended: it has no class of its own, only words."""
    return any(word in str(error).lower() for word in ("gloo", "nccl", "connection"))
