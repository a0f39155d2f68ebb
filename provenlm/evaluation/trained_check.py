"""What the probes recorded, and the steps taken, in; out, whether this net may be called trained, and why or why not."""

from collections.abc import Iterator, Mapping

from provenlm.core.audit import Figure, Recorder

NAME = "trained"


def trained(audit: Recorder, steps: int) -> None:
    """`trained` is 1 if there are trainable parameters, updates were made, parameters moved, and the loss is below the unigram's.

    The loss is the held-out one, or, where the corpus holds nothing out, that of training. What was not measured speaks against.
    """
    found = [*_preconditions(audit.figures, steps), _better(audit.figures)]
    against = [reason for holds, reason in found if not holds]
    words = f"no: {'; '.join(against)}" if against else f"yes: {'; '.join(reason for _, reason in found)}"
    audit.measured(NAME, int(not against), "", f"whether this net may be called trained: {words}")


def _preconditions(figures: Mapping[str, Figure], steps: int) -> Iterator[tuple[bool, str]]:
    trainable, unmoved, moved = (_number(figures, f"learned.{name}") for name in ("trainable", "unmoved", "moved"))
    yield _above(trainable), f"{_said(trainable)} trainable parameters"
    yield steps > 0, f"{steps:,} updates were applied"
    stays = f", {_said(unmoved)} tensors did not move" if unmoved else ""
    yield _above(moved), f"parameters moved by {_said(moved)} of their length{stays}"


def _better(figures: Mapping[str, Figure]) -> tuple[bool, str]:
    split = "heldout" if _above(_number(figures, "heldout.documents")) else "training"
    loss, unigram = _number(figures, f"{split}.nats"), _number(figures, f"{split}.unigram.nats")
    name = "held-out loss" if split == "heldout" else "training loss (the corpus holds nothing out)"
    words = f"{name} {_said(loss)} nats against {_said(unigram)} of the unigram baseline"
    return loss is not None and unigram is not None and loss < unigram, words


def _number(figures: Mapping[str, Figure], name: str) -> float | None:
    figure = figures.get(name)
    return None if figure is None or isinstance(figure.value, str) else figure.value


def _above(value: float | None) -> bool:
    return value is not None and value > 0


def _said(value: float | None) -> str:
    if value is None:
        return "not measured"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}"
