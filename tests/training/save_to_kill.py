"""Train with checkpoints every two steps, killed by SIGKILL at each file operation in turn.

`main` prints a JSON list: for each kill the file operation, the latest intact step before and after, and whether a resumed run ended
with the weights of an uninterrupted one.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.moe.config import MoEConfig
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.manager import CheckpointManager, list_steps
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import CheckpointConfig, LRScheduleConfig, OptimizerConfig, ParamGroupConfig
from provenlm.training.dataloader import DataLoader
from provenlm.training.loop import train_steps

FILE_EVENTS = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
ADAMW = ParamGroupConfig("adamw", 0.01, (0.9, 0.95), 0.0)
KEEP = CheckpointConfig(2, 1, None, False)
CONFIG = TrainConfig(
    seed=1,
    device="cpu",
    threads=1,
    precision="fp16",
    data_packing="concat_and_chunk",
    seq_len=4,
    global_batch_size=2,
    micro_batch_size=2,
    activation_checkpointing=None,
    compile=False,
    max_steps=4,
    label_smoothing=0.0,
    optimizer=OptimizerConfig(ADAMW, ADAMW, ADAMW, 1.0),
    lr_schedule=LRScheduleConfig(1, 0, "linear", 0.0),
    ema_decay=0.9,
    eval=None,
    checkpoints=KEEP,
    spike_guard=None,
    reduce_lr_on_plateau=None,
    early_stopping=None,
    seq_len_schedule=None,
    sample=None,
    distributed=None,
    loggers=(),
)


class NoiseSequences:
    """Return sequences of fixed pseudo-random tokens."""

    def __len__(self) -> int:
        return 7

    def get_batch(self, indices: Any) -> TokenBatch:
        ids = torch.tensor([[(3 * int(i) + 5 * t) % 11 for t in range(5)] for i in indices])
        return TokenBatch(ids[:, :-1], ids[:, 1:])


def train(root: Path) -> str:
    """Train to the end, resuming from `root`; return a digest of the weights, their EMA and the loss scale."""
    manager = CheckpointManager(root, KEEP, lambda line: None)
    newest = manager.latest()
    rng_state.seed_all(3)
    model = SPEC.build(MoEConfig(8, 1, 1, 1, 2, 1, 8, 8, True, 10_000.0, 1e-5, 0.1, "aux_loss", 0.01, 0.001), 11)
    state = last = None if newest is None else checkpoint.load_checkpoint(newest)
    for step in train_steps(
        model, SPEC.objectives(model, IGNORE), DataLoader(NoiseSequences(), 1, []), [], CONFIG, state, manager.rollback_target
    ):
        last = step.snapshot()
        if step.number % KEEP.save_interval == 0:
            manager.save(last, {}, None)
    manager.close()
    assert last is not None
    tensors = [last.state_dicts[file][name] for file in ("model", "training_weights") for name in sorted(last.state_dicts[file])]
    scaler = json.dumps(last.metadata["grad_scaler"]).encode()
    return hashlib.sha256(b"".join([scaler, *(tensor.numpy().tobytes() for tensor in tensors)])).hexdigest()


def kill_at(index: int, root: Path, log: Path) -> None:
    """Kill this process at its `index`-th file operation below `root`, and write that operation to `log`."""
    counter = [0]
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FILE_EVENTS and arguments and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(str(root)):
            counter[0] += 1
            if counter[0] == index:
                os.write(out, f"{event} {Path(str(arguments[0])).name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def child(root: Path, index: int | None, log: Path) -> int:
    """Train below `root` in a child process and return its exit status."""
    pid = os.fork()
    if pid == 0:
        if index is not None:
            kill_at(index, root, log)
        (root.parent / f"{root.name}.digest").write_text(train(root))
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    expected = train(folder / "whole")
    results = []
    for index in range(1, 1000):
        root, log = folder / f"killed{index}", folder / f"log{index}"
        if child(root, index, log) == 0:
            break
        remaining = list_steps(root)
        newest = CheckpointManager(root, KEEP, lambda line: None).latest()
        ended = child(root, None, log)
        same = ended == 0 and (folder / f"{root.name}.digest").read_text() == expected
        results.append({"event": log.read_text().strip(), "remaining": remaining, "newest": newest and newest.name, "same": same})
    print(json.dumps(results))
