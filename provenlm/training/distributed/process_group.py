"""Coordinate the processes of a distributed run.

Each process computes its share of every batch, and all end a step with the same weights. The gradient is the sum over all micro-batches,
whichever process computed them, so that N processes give the weights of one up to the order of sums. Only the main process uses the disk;
the others receive what they need through `DistributedContext`. Processes find each other through the variables that torchrun sets.
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

from provenlm.core.errors import ConfigError, ProvenlmError
from provenlm.training.checkpoints.checkpoint import Checkpoint
from provenlm.training.config_sections import DistributedConfig
from provenlm.training.distributed.launcher import exit_with_parent

P = TypeVar("P")
BUCKET_BYTES = 25 * 2**20  # as in torch's DistributedDataParallel
COLLECTIVE_TIMEOUT = timedelta(minutes=30)  # long, because the main process may be writing a checkpoint


@dataclass(frozen=True)
class DistributedContext:
    """Hold the rank of this process and run collectives with the others.

    Collectives do nothing in a single process; all processes must call them in the same order. ddp: each process holds the whole model, and
    gradients are summed after the backward pass. (torch's DistributedDataParallel overlaps both, so that a process that runs out of memory
    would leave the others waiting.) fsdp2: see fsdp.py.
    """

    rank: int
    world_size: int
    strategy: Literal["ddp", "fsdp2"]
    device: torch.device

    @property
    def is_main(self) -> bool:
        """Return whether this is the process with rank 0."""
        return self.rank == 0

    @property
    def is_sharded(self) -> bool:
        """Return whether each process holds a shard of the model.

        Every pass then needs all processes, so that all must make the same number of passes.
        """
        return self.world_size > 1 and self.strategy == "fsdp2"

    def shard(self, parts: Iterable[tuple[P, float]]) -> list[tuple[P, float]]:
        """Return this process's share of weighted micro-batches.

        If every process must make the same number of passes, parts of weight 0 are added.
        """
        all_parts = list(parts)
        local_parts = all_parts[self.rank :: self.world_size]
        min_parts = -(-len(all_parts) // self.world_size) if self.is_sharded else min(1, len(all_parts))
        return local_parts + [(part, 0.0) for part, _ in all_parts[: max(0, min_parts - len(local_parts))]]

    def all_reduce_grads(self, params: Sequence[nn.Parameter]) -> None:
        """Sum the gradients over all processes, in place.

        A parameter without a gradient in any process keeps none.
        """
        if self.world_size == 1 or self.is_sharded:  # FSDP has summed them
            return
        grad_counts = self.all_reduce([float(p.grad is not None) for p in params])
        with_gradient = [p for p, count in zip(params, grad_counts, strict=True) if count]
        for parameter in with_gradient:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        _all_reduce_buckets([parameter.grad for parameter in with_gradient if parameter.grad is not None])

    def all_reduce(self, values: Sequence[float]) -> list[float]:
        """Sum each value over all processes; the bits are the same in all of them."""
        if self.world_size == 1:
            return list(values)
        buffer = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(buffer)
        return buffer.tolist()

    def broadcast(self, values: Sequence[float]) -> list[float]:
        """Return the main process's values, so that all processes decide alike."""
        if self.world_size == 1:
            return list(values)
        buffer = torch.tensor(values, dtype=torch.float64)
        distributed.broadcast(buffer, 0)
        return buffer.tolist()

    def any_rank(self, value: bool) -> bool:
        """Return whether `value` is true in any process."""
        return self.all_reduce([float(value)])[0] > 0

    def broadcast_checkpoint(self, checkpoint: Checkpoint | None) -> Checkpoint | None:
        """Return the main process's checkpoint; what the others pass is ignored."""
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
        """Gather every process's small tensors and JSON.

        The tensors of ranks above 0 are named `<rank>/<name>`.
        """
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
        """Return this process's part of what `all_gather` returned.

        None if there were fewer processes.
        """
        if self.rank >= len(host_states):
            return None
        prefix = f"{self.rank}/" if self.rank else ""
        rank_tensors = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        return {name: tensor for name, tensor in rank_tensors.items() if "/" not in name}, host_states[self.rank]

    def _broadcast_bytes(self, data: bytes, source: int = 0) -> bytes:
        """Return the `data` of process `source`."""
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
    """Sum each tensor over all processes, in place.

    Tensors of one type are joined to buffers of about `BUCKET_BYTES`.
    """
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
    """Join the process group for the duration of the context.

    Without torchrun the context has a single process. Raises ConfigError if torchrun started another number of processes than configured, or
    if the device has no collectives.
    """
    world_size, launched_size = config.world_size if config else 1, int(os.environ.get("WORLD_SIZE", "1"))
    if launched_size != world_size:
        raise ConfigError(
            f"train.distributed.world_size must be {launched_size}, the number of processes that torchrun started, got {world_size}"
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
    except RuntimeError as error:  # the group is not destroyed: that could wait for the process that ended
        if not _is_peer_lost(error):
            raise
        if rank:
            sys.exit(1)  # the main process reports it
        raise ProvenlmError("another process of this training ended; the next run resumes from the latest checkpoint") from error
    distributed.destroy_process_group()


def _local_device(device: torch.device, local_rank: int) -> torch.device:
    """Return the device with index `local_rank` on this machine."""
    if device.type == "mps":
        raise ConfigError("train.distributed must be null on device mps, which has no collectives")
    if device.type != "cuda":
        return device
    if local_rank >= torch.cuda.device_count():
        raise ConfigError(
            f"train.distributed.world_size: processes per machine must be <= {torch.cuda.device_count()}, its number of GPUs, "
            f"got at least {local_rank + 1}"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def is_local_main() -> bool:
    """Return whether this is the first process of the run on this machine."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _is_peer_lost(error: RuntimeError) -> bool:
    """Return whether an error means that another process ended.

    torch has no exception class for it, so the message is tested.
    """
    return any(word in str(error).lower() for word in ("gloo", "nccl", "connection"))
