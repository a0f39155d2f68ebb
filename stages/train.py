"""Token ids in, a trained net with all that is needed to go on training it, and the history of every step, out.

A run that is stopped or killed leaves checkpoints outside the outs; the next run with the same parameters, data and code goes on from
the newest whole one and ends with the same weights, bit for bit.
"""

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from provenlm.core import digest, params, plugin
from provenlm.core.errors import UserError
from provenlm.core.progress import Progress, progress, say
from provenlm.tokens import shards
from provenlm.training import checkpoint, figures
from provenlm.training.batches import batches_for
from provenlm.training.fit import fit
from provenlm.training.monitors.finite import Finite
from provenlm.training.monitors.history import History
from provenlm.training.net import Net, fresh
from provenlm.training.objective import IGNORE
from provenlm.training.settings import Settings
from provenlm.training.step import Step
from stages import stage


class Earlier(NamedTuple):
    """What an unfinished run left: its state, its history, and the steps at which its processes began."""

    state: checkpoint.Checkpoint | None
    history: History
    begun: list[int]


def body(run: stage.Run) -> None:
    settings = run.settings("train", Settings)
    kind, net, shape = net_of(run)
    if settings.length > net.context(shape):
        raise UserError(f"train.length: {settings.length}; this net has a context of {net.context(shape)} positions")
    folder = run.reads(run.layout.corpus(run.row["corpus"], "tokens"))
    shards.verify(folder)
    tokens = shards.read(folder)
    torch.set_num_threads(settings.threads)
    device = device_of(settings.device)
    model = fresh(net, shape, tokens.vocabulary, settings.seed).to(device)
    objectives, batches = net.objectives(model, IGNORE), batches_for(tokens, settings)
    root = resume_root(run.layout.resume(run.subject), key_of(run, folder))
    earlier = left_behind(root)
    raw = {name: value for name, value in run.row["net"].items() if name != "kind"}
    described = checkpoint.Described(kind, raw, tokens.vocabulary, settings.length)

    def save(target: Path, step: Step) -> None:
        checkpoint.write(target, step.snapshot(), files_of(described, earlier))

    steps = fit(model, objectives, batches, [Finite(), earlier.history], settings, earlier.state)
    with progress(f"train@{run.subject}", "step", settings.steps) as bar:
        bar.advance(earlier.begun[-1])
        last = follow(steps, bar, settings, objectives[0].judge, lambda step: keep(root, step, save), stage.Stop())
    save(run.writes(run.layout.model(run.subject)), last)

    begun = fresh(net, shape, tokens.vocabulary, settings.seed).state_dict()
    figures.parameters(run.audit, model, begun, net.count(shape, tokens.vocabulary))
    figures.course(run.audit, earlier.history, objectives[0].judge, settings)
    figures.ending(run.audit, last, len(earlier.begun) - 1, device)
    run.facts |= {"device": device.type, "threads": torch.get_num_threads(), "seed": settings.seed, "precision": settings.precision}
    shutil.rmtree(run.layout.resume(run.subject), ignore_errors=True)  # last: until here a kill costs little


def net_of(run: stage.Run) -> tuple[str, Net, Any]:
    """The kind, the architecture and its typed settings from the recipe's `net` section. UserError if it names none that is there."""
    section, where = dict(run.row["net"]), run.params.where(run.table, run.subject, "net")
    if "kind" not in section:
        raise UserError(f"{where}: missing key 'kind'; known: {', '.join(plugin.names('nets'))}")
    run.slices[f"{run.table}.{run.subject}.net"] = dict(section)
    run.slices[f"{run.table}.{run.subject}.corpus"] = run.row["corpus"]
    kind = section.pop("kind")
    net = plugin.load("nets", kind, "net", Net)
    return kind, net, params.parse(net.settings, section, where)


def device_of(wanted: str) -> torch.device:
    """The device that `wanted` names; auto takes cuda, then mps, then the CPU. UserError if it is not there."""
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if wanted == "auto":
        return torch.device(next(name for name, usable in there.items() if usable))
    if not there[wanted]:
        raise UserError(
            f"train.device: {wanted} is not there; on this machine: {', '.join(n for n, usable in there.items() if usable)}"
        )
    return torch.device(wanted)


def key_of(run: stage.Run, tokens: Path) -> str:
    """A digest of all that decides the weights: parameters, tokens, our code that is loaded, and torch itself."""
    root = run.layout.root.resolve()
    code = digest.of_files(stage.loaded_code(root), root)
    return digest.of_json([run.slices, digest.of_path(tokens), code, torch.__version__])


def resume_root(folder: Path, key: str) -> Path:
    """Where checkpoints of this very training lie; those of any other are removed."""
    root = folder / key[:32]
    for other in folder.glob("*"):
        if other != root:
            shutil.rmtree(other)
    return root


def left_behind(root: Path) -> Earlier:
    """What to go on from: the newest whole checkpoint below `root`, or nothing."""
    newest = checkpoint.newest(root, say)
    if newest is None:
        return Earlier(None, History(), [0])
    state = checkpoint.read(newest)
    say(f"going on after step {state.facts['step']}")
    history = History.from_parquet((newest / "history.parquet").read_bytes())
    return Earlier(state, history, [*json.loads((newest / "runs.json").read_text(encoding="utf-8")), state.facts["step"]])


def files_of(described: checkpoint.Described, earlier: Earlier) -> dict[str, bytes]:
    """What lies beside the tensors of a checkpoint."""
    runs = json.dumps(earlier.begun).encode()
    return {"net.json": described.to_json(), "history.parquet": earlier.history.to_parquet(), "runs.json": runs}


def keep(root: Path, step: Step, save: Callable[[Path, Step], None]) -> None:
    """Save the state after `step` below `root` and let the oldest go."""
    save(checkpoint.step_folder(root, step.number), step)
    checkpoint.prune(root)


def follow(
    steps: Iterator[Step], bar: Progress, settings: Settings, judge: str, save: Callable[[Step], None], asked: stage.Stop
) -> Step:
    """Take steps to the last, saving when it is time. Asked to end, save and exit as if by that signal: DVC sees an unfinished stage."""
    for step in steps:
        seconds = (settings.steps - step.number) * step.seconds
        speed = step.targets / step.seconds
        bar.advance(1, f"loss {step.terms[judge]:.3f}, {speed:,.0f} tokens/s, {seconds:.0f} s left")
        if step.stop:
            say(f"stopped: {step.stop}")
            return step
        if asked or step.number % settings.checkpoint_every == 0:
            save(step)
        if asked:
            say(f"asked to end: saved after step {step.number}; the next run goes on from there")
            sys.exit(128 + asked.signal)
    raise AssertionError("a training ends with a step that says why")


if __name__ == "__main__":
    stage.main("train", "recipes", body, __doc__)
