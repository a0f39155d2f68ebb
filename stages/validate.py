"""A trained net and held-out ids in; out, figures that could have been bad, and samples of what the net writes."""

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from provenlm.core import config, interfaces, registry
from provenlm.core.audit import Recorder
from provenlm.core.errors import UserError
from provenlm.data import token_dataset
from provenlm.evaluation import suite, sweep
from provenlm.evaluation.probe import Probe, Subject, Validating
from provenlm.evaluation.probes import compile_parity, generation_quality, resume_bitexact
from provenlm.evaluation.probes.learning_curve import curve
from provenlm.evaluation.probes.parameter_count import Shape
from provenlm.evaluation.probes.resume_bitexact import Trial
from provenlm.evaluation.probes.seed_rerun import again
from provenlm.evaluation.runner import run as ask
from provenlm.evaluation.suite import AlsoCount, Settings
from provenlm.evaluation.trained_check import trained as say_if_trained
from provenlm.models.common.objective import IGNORE
from provenlm.models.common.spec import Net
from provenlm.training.build_model import fresh
from provenlm.training.callbacks.history import History
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Loaded, load_net
from provenlm.training.config import Settings as Training
from provenlm.training.dataloader import batches_for, in_steps
from provenlm.training.metrics import beside
from stages import runner


def body(run: runner.Run) -> None:
    settings, where = run.settings("validate", Settings), run.params.where(run.table, run.subject, "validate")
    face = registry.load_domain(run.row["domain"], "evaluate", Validating)
    own = face.probes(config.parse(face.settings, settings.probes, f"{where}.probes"))
    torch.set_num_threads(settings.threads)
    train = run.settings("train", Training)
    subject, trained = subject_of(run, settings, train.seed)
    history = History.from_parquet((run.layout.model(run.subject) / "history.parquet").read_bytes())
    shapes = {name: shape_of(trained.net, also, f"{where}.also_count.{name}.net") for name, also in settings.also_count.items()}
    written: list[generation_quality.Sample] = []
    asked = {**suite.probes(settings, trained.net.probe, shapes, written), **of_training(subject, trained, train, history), **own}
    if settings.follow is not None:
        asked |= sweep.probes(settings.follow, asked, others(run, subject, trained, train, history))
    ask(subject, asked, run.audit)
    say_if_trained(run.audit, sum("skipped" not in row for row in history.lasting()))
    generation_quality.write(run.writes(run.layout.samples(run.subject)), written)
    run.facts |= {"device": subject.device.type, "threads": torch.get_num_threads(), "seed": subject.seed}


def of_training(subject: Subject, trained: Loaded, train: Training, history: History) -> dict[str, Probe]:
    """Probes of how the net was trained, and of whether that can be stopped and taken up."""
    net, size = trained.net, subject.tokens.vocabulary
    trial = Trial(net, lambda: subject.small(size), batches_for(subject.tokens, train), in_steps(train, subject.tokens))

    def resume(subject: Subject, figures: Recorder) -> None:
        with TemporaryDirectory() as folder:
            resume_bitexact.record(figures, trial, Path(folder) / "checkpoint", checkpoint.read)

    judge = net.objectives(trained.model, IGNORE)[0].judge
    return {
        "curve": curve(beside(history, judge)),
        "resume": resume,
        "equivalence": lambda subject, figures: compile_parity.record(figures, trial),
    }


def others(run: runner.Run, subject: Subject, trained: Loaded, train: Training, history: History) -> sweep.Others:
    """Nets of the same recipe: from other seeds, and at the steps whose checkpoints were kept."""
    kept = [
        (int(path.name.removeprefix("step-")), lambda path=path: replace(subject, model=load_net(path).model))
        for path in sorted((run.layout.model(run.subject) / "checkpoints").glob("step-*"))
    ]

    def other(seed: int) -> tuple[Subject, float]:
        model, seconds = again(trained.net, trained.settings, subject.tokens, train, seed)
        return replace(subject, model=model), seconds

    own = (train.seed, sum(seconds for _, seconds in history.column("seconds")))
    return sweep.Others(own, other, kept, len(history.lasting()))


def subject_of(run: runner.Run, settings: Settings, seed: int) -> tuple[Subject, Loaded]:
    """The trained net with the tokens and codec of its corpus. UserError if they do not belong together."""
    folder = run.reads(run.layout.corpus(run.row["corpus"], "tokens"))
    token_dataset.verify(folder)
    tokens = token_dataset.read(folder)
    trained = load_net(run.reads(run.layout.model(run.subject)))
    net, shape, described = trained.net, trained.settings, trained.described
    if described.vocabulary != tokens.vocabulary:
        raise UserError(
            f"the net was trained on a vocabulary of {described.vocabulary}, the corpus has {tokens.vocabulary}; "
            f"`dvc repro train@{run.subject}` trains it anew"
        )
    where = f"{run.params.where(run.table, run.subject, 'validate')}.small"
    smaller: Any = config.parse(net.settings, {**described.settings, **settings.small}, where)
    codec = registry.load_domain(run.row["domain"], "tokenize", interfaces.Tokenizing).load(folder / "codec")
    subject = Subject(
        model=trained.model,
        logits=net.logits,
        continued=net.continued,
        untrained=lambda: fresh(net, shape, described.vocabulary, seed),
        small=lambda vocabulary: net.build(smaller, vocabulary),
        losses=net.losses,
        published=lambda weights: net.published(shape, described.vocabulary, weights),
        closed_form=net.count(shape, described.vocabulary),
        codec=codec,
        tokens=tokens,
        length=described.length,
        seed=seed,
    )
    return subject, trained


def shape_of(net: Net, also: AlsoCount, where: str) -> Shape:
    shape: Any = config.parse(net.settings, also.net, where)
    return Shape(lambda: net.build(shape, also.vocabulary), net.count(shape, also.vocabulary))


if __name__ == "__main__":
    runner.main("validate", "recipes", body, __doc__)
