"""A trained net and held-out ids in; out, figures that could have been bad, and samples of what the net writes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from provenlm.core import params, plugin
from provenlm.core.errors import UserError
from provenlm.tokens import shards
from provenlm.training.checkpoint import Loaded, load_net
from provenlm.training.net import Net, fresh
from provenlm.validation import heldout, leakage, samples, speed
from provenlm.validation.capacity import capacity
from provenlm.validation.learned import learned
from provenlm.validation.parameters import Shape, parameters
from provenlm.validation.particular import particular
from provenlm.validation.probe import Probe, Subject, Validating
from provenlm.validation.run import run as ask
from provenlm.validation.separation import separation
from stages import stage


@dataclass(frozen=True)
class AlsoCount:
    """A further shape of the recipe's kind of net, to be counted and never trained."""

    vocabulary: int
    net: dict[str, Any]  # typed by the net


@dataclass(frozen=True)
class Settings:
    """The `validate` section of a recipe, typed."""

    threads: int
    loss: heldout.Settings
    leakage: leakage.Settings
    generation: samples.Settings
    speed: speed.Settings
    also_count: dict[str, AlsoCount]
    probes: dict[str, Any]  # typed by the domain

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads is {self.threads}; it must be at least 1")


def body(run: stage.Run) -> None:
    settings, where = run.settings("validate", Settings), run.params.where(run.table, run.subject, "validate")
    face = plugin.load("domains", run.row["domain"], "validate", Validating)
    own = face.probes(params.parse(face.settings, settings.probes, f"{where}.probes"))
    torch.set_num_threads(settings.threads)
    subject, trained = subject_of(run)
    shapes = {name: shape_of(trained.net, also, f"{where}.also_count.{name}.net") for name, also in settings.also_count.items()}
    written: list[samples.Sample] = []
    ask(subject, {**general(settings, trained.net, shapes, written), **own}, run.audit)
    samples.write(run.writes(run.layout.samples(run.subject)), written)
    run.facts |= {"device": subject.device.type, "threads": torch.get_num_threads(), "seed": subject.seed}


def subject_of(run: stage.Run) -> tuple[Subject, Loaded]:
    """The trained net with the tokens and codec of its corpus. UserError if they do not belong together."""
    folder = run.reads(run.layout.corpus(run.row["corpus"], "tokens"))
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
    codec = plugin.load("domains", run.row["domain"], "tokenize", plugin.Tokenizing).load(folder / "codec")
    subject = Subject(
        model=trained.model,
        logits=net.logits,
        continued=net.continued,
        untrained=lambda: fresh(net, shape, described.vocabulary, seed),
        closed_form=net.count(shape, described.vocabulary),
        codec=codec,
        tokens=tokens,
        length=described.length,
        seed=seed,
    )
    return subject, trained


def general(settings: Settings, net: Net, shapes: Mapping[str, Shape], written: list[samples.Sample]) -> dict[str, Probe]:
    """The probes of every net and domain, in the order in which they are asked."""
    return {
        **heldout.probes(settings.loss),
        "learned": learned(settings.loss.batch_tokens, settings.leakage.tokens),
        "parameters": parameters(shapes),
        "capacity": capacity,
        "leakage.split": separation,
        **leakage.probes(settings.leakage),
        "net": particular(net.probe, settings.leakage.tokens),
        "generation": samples.generation(settings.generation, written),
        "speed": speed.speed(settings.speed),
    }


def shape_of(net: Net, also: AlsoCount, where: str) -> Shape:
    shape: Any = params.parse(net.settings, also.net, where)
    return Shape(lambda: net.build(shape, also.vocabulary), net.count(shape, also.vocabulary))


if __name__ == "__main__":
    stage.main("validate", "recipes", body, __doc__)
