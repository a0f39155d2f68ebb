"""A trained net and held-out ids in; out, figures that could have been bad, and samples of what the net writes."""

from typing import Any

import torch

from provenlm.core import params, plugin
from provenlm.core.errors import UserError
from provenlm.tokens import shards
from provenlm.training.checkpoint import Loaded, load_net
from provenlm.training.net import Net, fresh
from provenlm.validation import general, samples
from provenlm.validation.general import AlsoCount, Settings
from provenlm.validation.parameters import Shape
from provenlm.validation.probe import Subject, Validating
from provenlm.validation.run import run as ask
from stages import stage


def body(run: stage.Run) -> None:
    settings, where = run.settings("validate", Settings), run.params.where(run.table, run.subject, "validate")
    face = plugin.load("domains", run.row["domain"], "validate", Validating)
    own = face.probes(params.parse(face.settings, settings.probes, f"{where}.probes"))
    torch.set_num_threads(settings.threads)
    subject, trained = subject_of(run, settings)
    shapes = {name: shape_of(trained.net, also, f"{where}.also_count.{name}.net") for name, also in settings.also_count.items()}
    written: list[samples.Sample] = []
    ask(subject, {**general.probes(settings, trained.net.probe, shapes, written), **own}, run.audit)
    samples.write(run.writes(run.layout.samples(run.subject)), written)
    run.facts |= {"device": subject.device.type, "threads": torch.get_num_threads(), "seed": subject.seed}


def subject_of(run: stage.Run, settings: Settings) -> tuple[Subject, Loaded]:
    """The trained net with the tokens and codec of its corpus. UserError if they do not belong together."""
    folder = run.reads(run.layout.corpus(run.row["corpus"], "tokens"))
    shards.verify(folder)
    tokens = shards.read(folder)
    trained = load_net(run.reads(run.layout.model(run.subject)))
    net, shape, described = trained.net, trained.settings, trained.described
    if described.vocabulary != tokens.vocabulary:
        raise UserError(
            f"the net was trained on a vocabulary of {described.vocabulary}, the corpus has {tokens.vocabulary}; "
            f"`dvc repro train@{run.subject}` trains it anew"
        )
    seed = run.row["train"]["seed"]
    run.slices[f"{run.table}.{run.subject}.train.seed"] = seed
    where = f"{run.params.where(run.table, run.subject, 'validate')}.small"
    smaller: Any = params.parse(net.settings, {**described.settings, **settings.small}, where)
    codec = plugin.load("domains", run.row["domain"], "tokenize", plugin.Tokenizing).load(folder / "codec")
    subject = Subject(
        model=trained.model,
        logits=net.logits,
        continued=net.continued,
        untrained=lambda: fresh(net, shape, described.vocabulary, seed),
        small=lambda vocabulary: net.build(smaller, vocabulary),
        losses=net.losses,
        closed_form=net.count(shape, described.vocabulary),
        codec=codec,
        tokens=tokens,
        length=described.length,
        seed=seed,
    )
    return subject, trained


def shape_of(net: Net, also: AlsoCount, where: str) -> Shape:
    shape: Any = params.parse(net.settings, also.net, where)
    return Shape(lambda: net.build(shape, also.vocabulary), net.count(shape, also.vocabulary))


if __name__ == "__main__":
    stage.main("validate", "recipes", body, __doc__)
