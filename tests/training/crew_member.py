"""One process of a crew of two, started by the test of crews; the first writes what it found to the file named on its command line."""

import json
import os
import sys
from pathlib import Path

import torch
from torch import nn

from provenlm.training.checkpoint import Checkpoint
from provenlm.training.parallel import crew


def main(target: Path, fault: str) -> None:
    torch.set_num_threads(1)
    with crew(2, torch.device("cpu"), [sys.executable, __file__, str(target), fault]) as ours:
        if fault == "dies" and ours.rank == 1:
            os._exit(7)
        one, other, frozen = (nn.Parameter(torch.zeros(3)) for _ in range(3))
        parts = ours.own([("a", 0.25), ("b", 0.25), ("c", 0.5)])
        one.grad = torch.full((3,), float(10**ours.rank))
        other.grad = torch.ones(3) if ours.rank else None
        sums = ours.add([one, other, frozen], {"loss": torch.tensor(1.0 + ours.rank)})
        mine = Checkpoint({"model": {"weight": torch.arange(4.0) + ours.rank}}, {"step": 5 + ours.rank})
        told = ours.told(mine if ours.rank == 0 else None)
        assert told is not None
        assert ours.told(None) is None
        found = {
            "parts": parts,
            "gradients": [None if p.grad is None else p.grad.tolist() for p in (one, other, frozen)],
            "loss": sums["loss"].item(),
            "any": [ours.any(False), ours.any(ours.rank == 1)],
            "told": [told.tensors["model"]["weight"].tolist(), told.facts],
        }
        (target / f"{ours.rank}.json").write_text(json.dumps(found))
        ours.any(False)  # both have written


if __name__ == "__main__":
    try:
        main(Path(sys.argv[1]), sys.argv[2])
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")
