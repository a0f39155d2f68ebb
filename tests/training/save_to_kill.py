"""Trains a little, saving every second step, and is killed by SIGKILL at each place in turn where saving touches the disk.

Usage: save_to_kill.py FOLDER. Prints a JSON list: for each place the event, the newest whole step before and after, and whether a
resumed run ended with the weights of one that was never stopped. Children are forked, so torch is loaded and warm once.
"""

import hashlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import torch

from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.moe.config import Settings as Shape
from provenlm.models.moe.spec import SPEC
from provenlm.training import rng_state
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.manager import Store, steps
from provenlm.training.config import Settings
from provenlm.training.config_sections import Checkpoints, Group, Optimizer, Schedule
from provenlm.training.dataloader import Batches
from provenlm.training.loop import fit

WATCHED = ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree")
ADAMW = Group("adamw", 0.01, (0.9, 0.95), 0.0)
KEEP = Checkpoints(2, 1, None, False)
SETTINGS = Settings(
    seed=1,
    device="cpu",
    threads=1,
    precision="fp16",
    batches="windows",
    length=4,
    batch=2,
    micro_batch=2,
    recompute=None,
    compile=False,
    steps=4,
    label_smoothing=0.0,
    optimizer=Optimizer(ADAMW, ADAMW, ADAMW, 1.0),
    schedule=Schedule(1, 0, "linear", 0.0),
    ema=0.9,
    held_out=None,
    checkpoints=KEEP,
    stability=None,
    plateau=None,
    early_stop=None,
    curriculum=None,
    samples=None,
    parallel=None,
    watch=(),
)


class Rows:
    """Rows of fixed noise."""

    def __len__(self) -> int:
        return 7

    def take(self, indices: Any) -> Batch:
        ids = torch.tensor([[(3 * int(i) + 5 * t) % 11 for t in range(5)] for i in indices])
        return Batch(ids[:, :-1], ids[:, 1:])


def train(root: Path) -> str:
    """Train to the end, going on from what lies below `root`; a digest of the weights and of their average."""
    store = Store(root, KEEP, lambda line: None)
    newest = store.newest()
    rng_state.seed_all(3)
    model = SPEC.build(Shape(8, 1, 1, 1, 2, 1, 8, 8, True, 10_000.0, 1e-5, 0.1, "layerwise", 0.01, 0.001), 11)
    state = last = None if newest is None else checkpoint.read(newest)
    for step in fit(model, SPEC.objectives(model, IGNORE), Batches(Rows(), 1, []), [], SETTINGS, state, store.recall):
        last = step.snapshot()
        if step.number % KEEP.every == 0:
            store.save(last, {}, None)
    store.close()
    assert last is not None
    tensors = [last.tensors[file][name] for file in ("model", "trained") for name in sorted(last.tensors[file])]
    scaler = json.dumps(last.facts["scaler"]).encode()
    return hashlib.sha256(b"".join([scaler, *(tensor.numpy().tobytes() for tensor in tensors)])).hexdigest()


def kill_at(place: int, root: Path, log: Path) -> None:
    """From now on: the `place`-th time that this process touches something below `root`, it is gone. Earlier ones go to `log`."""
    seen = [0]
    out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in WATCHED and arguments and isinstance(arguments[0], str | Path) and str(arguments[0]).startswith(str(root)):
            seen[0] += 1
            if seen[0] == place:
                os.write(out, f"{event} {Path(str(arguments[0])).name}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def child(root: Path, place: int | None, log: Path) -> int:
    """How a process that trains below `root` ended."""
    pid = os.fork()
    if pid == 0:
        if place is not None:
            kill_at(place, root, log)
        (root.parent / f"{root.name}.digest").write_text(train(root))
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    expected = train(folder / "whole")
    found = []
    for place in range(1, 1000):
        root, log = folder / f"killed{place}", folder / f"log{place}"
        if child(root, place, log) == 0:
            break
        left = steps(root)
        newest = Store(root, KEEP, lambda line: None).newest()
        ended = child(root, None, log)
        same = ended == 0 and (folder / f"{root.name}.digest").read_text() == expected
        found.append({"event": log.read_text().strip(), "left": left, "newest": newest and newest.name, "same": same})
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
