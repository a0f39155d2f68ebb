"""Token ids in, a trained net with all that is needed to go on training it, and the history of every step, out.

A run that is stopped or killed leaves checkpoints outside the outs; the next run with the same parameters, data and code goes on from
the newest whole one and ends with the same weights, bit for bit.
"""

import shutil
import sys
from functools import partial
from pathlib import Path

import torch

from provenlm.core import digest
from provenlm.core.errors import UserError
from provenlm.core.progress import progress
from provenlm.tokens import codecs, shards
from provenlm.training import figures, writing
from provenlm.training.batches import batches_for, in_steps
from provenlm.training.checkpoint import Described
from provenlm.training.device import device_of
from provenlm.training.fit import fit
from provenlm.training.memory import Profile
from provenlm.training.net import arrange, chosen, fresh
from provenlm.training.objective import IGNORE
from provenlm.training.safeguards import safeguards
from provenlm.training.session import monitors_for, only, session
from provenlm.training.settings import Settings
from provenlm.training.watch import watch
from provenlm.training.writing import Writer
from stages import stage


def body(run: stage.Run) -> None:
    asked_for = run.settings("train", Settings)
    kind, net, shape, section = chosen(run.row["net"], run.params.where(run.table, run.subject, "net"))
    run.slices |= {f"{run.table}.{run.subject}.{name}": run.row[name] for name in ("net", "corpus")}
    if asked_for.length > net.context(shape):
        raise UserError(f"train.length: {asked_for.length}; this net has a context of {net.context(shape)} positions")
    folder = run.reads(run.layout.corpus(run.row["corpus"], "tokens"))
    shards.verify(folder)
    tokens = shards.read(folder)
    settings = in_steps(asked_for, tokens)
    torch.set_num_threads(settings.threads)
    device = device_of(settings.device)
    memory = Profile(device)
    memory.at("begun")
    model = fresh(net, shape, tokens.vocabulary, settings.seed).to(device)
    arrange(model, settings)
    memory.at("net")
    objectives, batches = net.objectives(model, IGNORE), batches_for(tokens, settings)
    described = Described(kind, section, tokens.vocabulary, settings.length)
    ours = session(only(run.layout.resume(run.subject), key_of(run, settings, folder)), described, settings, objectives[0].judge)

    flops = partial(net.flops, shape, tokens.vocabulary)
    curves = run.writes(run.layout.curves(run.subject))
    watching = watch(ours.history, objectives[0].judge, settings, flops, memory, curves, run.layout.watched(run.subject))

    wanted = settings.samples
    writer = None if wanted is None else Writer(net, model, codecs.load(folder / "codec"), wanted, settings)

    asked = stage.Stop()
    steps = fit(model, objectives, batches, monitors_for(settings, objectives[0].judge), settings, ours.state, ours.store.recall)
    with progress(f"train@{run.subject}", "step", settings.total_steps) as bar:
        last = ours.follow(steps, bar, asked.__bool__, watching.look, writer)
    if last is None:
        sys.exit(128 + asked.signal)  # as if by that signal: DVC sees an unfinished stage
    watching.live.close()
    ours.deliver(run.writes(run.layout.model(run.subject)), last)
    memory.at("delivered")

    begun = fresh(net, shape, tokens.vocabulary, settings.seed).state_dict()
    figures.parameters(run.audit, model, begun, net.count(shape, tokens.vocabulary))
    figures.weights(run.audit, settings)
    figures.planned(run.audit, asked_for, settings)
    figures.course(run.audit, ours.history, objectives[0].judge, settings, ours.begun)
    figures.inside(run.audit, ours.history, last)
    if writer is not None:
        writing.record(run.audit, ours.written, ours.history, objectives[0].judge)
    figures.ending(run.audit, last, len(ours.begun) - 1)
    safeguards(run.audit, model, settings, ours.history, last.stop or "")
    watching.record(run.audit, settings.length, ours.begun)
    run.facts |= {"device": device.type, "threads": torch.get_num_threads(), "seed": settings.seed, "precision": settings.precision}
    shutil.rmtree(run.layout.resume(run.subject), ignore_errors=True)  # last: until here a kill costs little


def key_of(run: stage.Run, settings: Settings, tokens: Path) -> str:
    """A digest of all that decides the weights: settings, tokens, our code that is loaded, and torch itself."""
    root = run.layout.root.resolve()
    code = digest.of_files(stage.loaded_code(root), root)
    return digest.of_json([run.row["net"], settings.deciding, digest.of_path(tokens), code, torch.__version__])


if __name__ == "__main__":
    stage.main("train", "recipes", body, __doc__)
