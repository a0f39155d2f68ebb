"""All that a training is about to use in; out, that one real batch went through every link of it, or a UserError that names the link.

Tokenizer, batch, net, loss, gradients and update, checkpoint, the net read back from it, and what that writes: with the very settings
and files of the run to come, in its first seconds, so that a mistake is found before hours are spent.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.audit import Recorder, Table
from provenlm.core.errors import UserError
from provenlm.core.interfaces import Codec
from provenlm.core.records import Record
from provenlm.data.token_dataset import Tokens
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import Net
from provenlm.models.generation import sampling
from provenlm.models.generation.sampling import GREEDY, Whole
from provenlm.training.build_model import arrange, fresh
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import Described, Loaded
from provenlm.training.config import Settings
from provenlm.training.dataloader import batches_for
from provenlm.training.loop import fit
from provenlm.training.run import monitors_for
from provenlm.training.step import Step

PROMPT, WRITTEN = 2, 4  # tokens


@dataclass(frozen=True)
class Coming:
    """The run to come: its net and the settings of both, its tokens and the codec that made them, and where it will compute."""

    net: Net
    shape: Any
    described: Described
    settings: Settings
    tokens: Tokens
    codec: Codec
    device: torch.device


@dataclass
class Chain:
    """The links that held, each with its seconds."""

    held: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def link(self, name: str) -> Iterator[None]:
        """What goes wrong inside becomes a UserError that names the link; mistakes in params.yaml stay as they are."""
        begin = time.perf_counter()
        try:
            yield
        except UserError:
            raise
        except Exception as error:
            words = " ".join(str(error).split())
            raise UserError(f"not ready to train: {name}: {type(error).__name__}: {words}") from error
        self.held.append((name, round(time.perf_counter() - begin, 3)))


def dry_run(coming: Coming, folder: Path, audit: Recorder) -> None:
    """Take the first batch through everything; nothing that it makes below `folder` stays. UserError if a link breaks."""
    chain, settings = Chain(), coming.settings
    with chain.link("tokenizer"):
        _same_tokens(coming)
    with chain.link("batch"):
        batches = batches_for(coming.tokens, settings)
        batch = batches.take(0, settings.batch)
        _ids_within(batch, coming)
    with chain.link("net"):
        model = fresh(coming.net, coming.shape, coming.tokens.vocabulary, settings.seed).to(coming.device)
        arrange(model, settings)
        before = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
        objectives = coming.net.objectives(model, IGNORE)
    with chain.link("loss, gradients and update"):
        monitors = monitors_for(settings, objectives[0].judge)
        step = next(fit(model, objectives, batches, monitors, settings, None, lambda: None))
        moved = _moved(step, model, before)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="ready-", dir=folder) as place:
        with chain.link("checkpoint"):
            state = step.snapshot()
            checkpoint.write(Path(place) / "checkpoint", state, {"net.json": coming.described.to_json()})
            size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
        with chain.link("reading it back"):
            loaded = checkpoint.load_net(Path(place) / "checkpoint")
            _same_weights(loaded.model, state.tensors["model"])
    with chain.link("generation"):
        _generated(coming, loaded, batch)
    _record(audit, chain, step, moved, size)


def _same_tokens(coming: Coming) -> None:
    """ValueError unless the codec is that of the tokens."""
    if coming.codec.vocabulary != coming.tokens.vocabulary:
        raise ValueError(f"the codec has a vocabulary of {coming.codec.vocabulary}, the tokens one of {coming.tokens.vocabulary}")
    split = coming.tokens.train
    ids = [int(i) for i in split.ids[split.starts[0] : split.starts[1]] if int(i) not in coming.codec.special.values()]
    again = coming.codec.encode([Record.of(coming.codec.decode(ids), "", "ready")])[0].tolist()
    if again != ids:
        place = next((n for n, (a, b) in enumerate(zip(again, ids, strict=False)) if a != b), min(len(again), len(ids)))
        raise ValueError(f"the first document, decoded and encoded again, is not itself from token {place} on")


def _ids_within(batch: Batch, coming: Coming) -> None:
    kept = batch.targets_BT[batch.targets_BT != IGNORE]
    if not len(kept):
        raise ValueError("no target of the first batch carries loss")
    largest = int(max(batch.inputs_BT.max(), kept.max()))
    if largest >= coming.tokens.vocabulary:
        raise ValueError(f"the first batch holds the id {largest}; the vocabulary ends at {coming.tokens.vocabulary - 1}")


def _moved(step: Step, model: nn.Module, before: dict[str, Tensor]) -> int:
    """How many tensors the first update moved. ValueError if none, or if there was no sound update."""
    if step.skipped:
        raise ValueError(f"the first update was skipped: {step.skipped}")
    if not math.isfinite(step.grad_norm) or step.grad_norm <= 0:
        raise ValueError(f"the gradient norm of the first step is {step.grad_norm}")
    moved = sum(not torch.equal(parameter.detach().cpu(), before[name]) for name, parameter in model.named_parameters())
    if not moved:
        raise ValueError("the first update moved no parameter")
    return moved


def _same_weights(model: nn.Module, written: Any) -> None:
    found = model.state_dict()
    wrong = [name for name, tensor in written.items() if name not in found or not torch.equal(found[name], tensor.cpu())]
    if wrong:
        raise ValueError(f"{wrong[0]} is not what was written")


def _generated(coming: Coming, loaded: Loaded, batch: Batch) -> None:
    """A few tokens from the first of the batch, decoded."""
    special = coming.tokens.special
    model = loaded.model.to(coming.device)
    reader = Whole(partial(coming.net.logits, model), coming.settings.length, special.get("pad", 0), coming.device)
    prompt = batch.inputs_BT[0, :PROMPT].tolist()
    (row,) = sampling.generate(reader, [prompt], GREEDY, WRITTEN, special.get("eos"), torch.Generator())
    if not row:
        raise ValueError("nothing was written")
    coming.codec.decode(row)


def _record(audit: Recorder, chain: Chain, step: Step, moved: int, size: int) -> None:
    with audit.under("ready") as figures:
        figures.measured("links", len(chain.held), "links", "of the chain that the first batch went through before training began")
        figures.measured("seconds", round(sum(seconds for _, seconds in chain.held), 3), "s", "that this took")
        figures.measured(
            "loss",
            next(v for name, v in step.terms.items() if name.endswith("loss")),
            "nats/token",
            "what is minimised, first batch",
        )
        figures.measured("moved", moved, "tensors", "parameter tensors that the first update moved")
        figures.measured("checkpoint", size, "bytes", "of a checkpoint of this run")
        meaning = "what one real batch went through before training began, with the settings and files of this run"
        figures.tables.append(Table("chain", meaning, ("link", "seconds"), chain.held))
