"""Token ids in, a trained net with all that is needed to go on training it, and the history of every step, out.

A run that is stopped or killed leaves checkpoints outside the outs; the next run with the same parameters, data and code goes on from
the newest whole one and ends with the same weights, bit for bit.
"""

import os
import shutil
import signal
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from provenlm.core import hashing
from provenlm.core.errors import UserError
from provenlm.core.progress import progress, say
from provenlm.data import token_dataset
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import Chosen, chosen
from provenlm.tokenizers import registry
from provenlm.training import metrics, sample_generator
from provenlm.training.build_model import arrange, fresh
from provenlm.training.checkpoints.checkpoint import Described
from provenlm.training.config import Settings
from provenlm.training.dataloader import Batches, batches_for, in_steps
from provenlm.training.device import device_of, emulated, keep_memory
from provenlm.training.distributed import launcher
from provenlm.training.distributed.fsdp import as_it_is, share_out
from provenlm.training.distributed.process_group import Crew, crew, first_here
from provenlm.training.instrumentation import watch
from provenlm.training.loop import fit
from provenlm.training.memory import Profile
from provenlm.training.mfu import Meter, matmul_peak
from provenlm.training.preflight import Coming, dry_run
from provenlm.training.run import accompany, monitors_for, only, session
from provenlm.training.sample_generator import Writer
from stages import runner


class Ready(NamedTuple):
    """What a recipe asks for, once it is known to be possible. `settings` last for steps, `asked_for` as it stands in the recipe."""

    asked_for: Settings
    settings: Settings
    chosen: Chosen
    folder: Path
    tokens: token_dataset.Tokens
    batches: Batches


def body(run: runner.Run) -> None:
    recipe = ready(run)
    parallel = recipe.settings.parallel
    if parallel is None or launcher.wanted(parallel):
        if emulated(device_of(recipe.settings.device), wanted := recipe.settings.precision):
            say(f"train.precision: {wanted}; this processor has no such products, so they are slow: fp32 would be right")
        dry_run(coming(recipe), run.layout.resume(run.subject), run.audit)
    if parallel is not None and launcher.wanted(parallel):
        ended = launcher.start(parallel.processes, [sys.executable, "-m", "stages.train", run.subject])
        sys.exit(ended if ended >= 0 else status_after(-ended))
    with crew(parallel, device_of(recipe.settings.device)) as ours:
        train(run, recipe, ours)


def ready(run: runner.Run) -> Ready:
    """UserError with what is wrong, before any other process begins."""
    asked_for = run.settings("train", Settings)
    net = chosen(run.row["net"], run.params.where(run.table, run.subject, "net"))
    run.slices |= {f"{run.table}.{run.subject}.{name}": run.row[name] for name in ("net", "corpus")}
    if asked_for.length > net.net.context(net.settings):
        raise UserError(f"train.length: {asked_for.length}; this net has a context of {net.net.context(net.settings)} positions")
    folder = run.reads(run.layout.corpus(run.row["corpus"], "tokens"))
    if first_here():
        token_dataset.verify(folder)
    tokens = token_dataset.read(folder)
    settings = in_steps(asked_for, tokens)
    return Ready(asked_for, settings, net, folder, tokens, batches_for(tokens, settings))


def coming(recipe: Ready) -> Coming:
    """What the first batch is taken through before training begins."""
    settings, (kind, net, shape, section), tokens = recipe.settings, recipe.chosen, recipe.tokens
    torch.set_num_threads(settings.threads)
    described = Described(kind, section, tokens.vocabulary, settings.length)
    return Coming(net, shape, described, settings, tokens, registry.load(recipe.folder / "codec"), device_of(settings.device))


def train(run: runner.Run, recipe: Ready, crew: Crew) -> None:
    """One process's part of the training; all but the first end here."""
    settings, (kind, net, shape, section), vocabulary = recipe.settings, recipe.chosen, recipe.tokens.vocabulary
    torch.set_num_threads(settings.threads)
    keep_memory()
    memory = Profile(crew.device)
    memory.at("begun")
    model = fresh(net, shape, vocabulary, settings.seed).to(crew.device)
    arrange(model, settings)
    memory.at("net")
    through = share_out(model, crew.device.type) if crew.sharded else as_it_is
    objectives = [through(objective) for objective in net.objectives(model, IGNORE)]
    judge = objectives[0].judge
    meter = Meter(partial(net.flops, shape, vocabulary), crew.sums([matmul_peak(crew.device, settings.precision)])[0])
    asked = runner.Stop()
    course = partial(fit, model, objectives, recipe.batches, monitors_for(settings, judge), settings, crew=crew)
    if not crew.first:
        done = accompany(course(resume=crew.told(None), recall=lambda: crew.told(None)), asked.__bool__, crew)
        sys.exit(0 if done else status_after(asked.signal))

    described = Described(kind, section, vocabulary, settings.length)
    root = only(run.layout.resume(run.subject), key_of(run, settings, recipe.folder))
    ours = session(root, described, settings, judge, crew)
    curves = run.writes(run.layout.curves(run.subject))
    watching = watch(ours.history, judge, settings, meter, memory, curves, run.layout.watched(run.subject))
    wanted = settings.samples
    writer = None if wanted is None else Writer(net, model, registry.load(recipe.folder / "codec"), wanted, settings)
    steps = course(resume=crew.told(ours.state), recall=lambda: crew.told(ours.store.recall()))
    with progress(f"train@{run.subject}", "step", settings.total_steps) as bar:
        last = ours.follow(steps, bar, asked.__bool__, watching.look, writer)
    if last is None:
        sys.exit(status_after(asked.signal))
    watching.live.close()
    state = ours.deliver(run.writes(run.layout.model(run.subject)), last)
    memory.at("delivered")

    ended = state.tensors.get("trained", state.tensors["model"])
    metrics.parameters(run.audit, fresh(net, shape, vocabulary, settings.seed), ended, net.count(shape, vocabulary))
    metrics.weights(run.audit, settings)
    metrics.planned(run.audit, recipe.asked_for, settings)
    metrics.course(run.audit, ours.history, judge, settings, ours.begun)
    metrics.inside(run.audit, ours.history, last)
    if writer is not None:
        sample_generator.record(run.audit, ours.written, ours.history, judge)
    metrics.ending(run.audit, last, len(ours.begun) - 1)
    meter = meter if crew.size > 1 else meter.by(matmul_peak(crew.device, settings.precision))
    replace(watching, meter=meter).record(run.audit, settings.length, ours.begun)
    run.facts |= {"device": crew.device.type, "threads": torch.get_num_threads(), "seed": settings.seed}
    run.facts |= {"precision": settings.precision, "processes": crew.size}
    shutil.rmtree(run.layout.resume(run.subject), ignore_errors=True)  # last: until here a kill costs little


def status_after(number: int) -> int:
    """The exit status of a training that was asked to end by signal `number` (0: another process of it was) and has saved.

    It is 0 after SIGTERM, as whoever manages services expects of a program that did what it was told. DVC would look for the outs of
    a stage that ends so; to DVC it ends as if by the signal, and so does everything that a person interrupts.
    """
    number = number or signal.SIGTERM
    return 0 if number == signal.SIGTERM and "DVC_STAGE" not in os.environ else 128 + number


def key_of(run: runner.Run, settings: Settings, tokens: Path) -> str:
    """A digest of all that decides the weights: settings, tokens, our code that is loaded, and torch itself."""
    root = run.layout.root.resolve()
    code = hashing.of_files(runner.loaded_code(root), root)
    return hashing.of_json([run.row["net"], settings.deciding, hashing.of_path(tokens), code, torch.__version__])


if __name__ == "__main__":
    runner.main("train", "recipes", body, __doc__)
