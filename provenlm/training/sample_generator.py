"""A net in the middle of its training and prompts in, what it goes on to write out: its quality beside its loss."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from provenlm.core import rng
from provenlm.core.audit import Recorder, Table
from provenlm.core.errors import UserError
from provenlm.core.interfaces import Codec
from provenlm.models.common.spec import Net
from provenlm.models.generation.sampling import Cached, Whole, generate
from provenlm.training.callbacks.history import History
from provenlm.training.config import Settings
from provenlm.training.config_sections import Samples

SHOWN = 12  # checkpoints at most, so that an audit stays small; all are in samples.json


class Written(NamedTuple):
    """After `step`, behind `prompt`."""

    step: int
    prompt: str
    text: str


def reader(net: Net, model: nn.Module, special: Mapping[str, int], length: int, device: torch.device) -> Cached:
    """What `generate` asks for the next token."""
    return Cached(partial(net.continued, model), Whole(partial(net.logits, model), length, special.get("pad", 0), device))


class Writer:
    """Goes on from the same prompts with the same draws every time, so that only the net makes the difference."""

    def __init__(self, net: Net, model: nn.Module, codec: Codec, wanted: Samples, settings: Settings) -> None:
        """UserError if the codec cannot write a prompt down."""
        self.net, self.model, self.codec, self.wanted, self.settings = net, model, codec, wanted, settings
        self.prompts = [codec.prompt(prompt) for prompt in wanted.prompts]
        if not all(self.prompts):
            raise UserError("train.samples.prompts: this codec has no token that begins a text; each needs at least one character")

    def write(self, step: int) -> list[Written]:
        """Draws from a generator of its own: training goes on as if nothing had been written."""
        device = next(self.model.parameters()).device
        read = reader(self.net, self.model.eval(), self.codec.special, self.settings.length, device)
        random = torch.Generator().manual_seed(rng.seed_of(self.settings.seed, "samples"))
        stop = self.codec.special.get("eos")
        with torch.compiler.set_stance("force_eager"):  # every token is a shape that would be compiled anew
            rows = generate(read, self.prompts, self.wanted.sampling, self.wanted.tokens, stop, random)
        texts = [self.codec.decode(row).decode("utf-8", "replace") for row in rows]
        return [Written(step, prompt, text) for prompt, text in zip(self.wanted.prompts, texts, strict=True)]


def to_json(written: Sequence[Written]) -> bytes:
    return json.dumps(written, indent=1, ensure_ascii=False).encode()


def from_json(data: bytes) -> list[Written]:
    return [Written(*each) for each in json.loads(data)]


def record(audit: Recorder, written: Sequence[Written], history: History, judge: str) -> None:
    """All that was written as a table, each beside the losses at its step; of many checkpoints some, evenly spaced."""
    losses, held = dict(history.column(judge)), history.column(f"held_out.{judge}")
    steps = sorted({each.step for each in written})
    shown = {steps[round(n * (len(steps) - 1) / (SHOWN - 1))] for n in range(SHOWN)} if steps else set()
    rows = [
        (
            each.step,
            losses[each.step],
            next((loss for step, loss in reversed(held) if step <= each.step), ""),
            each.prompt,
            each.text,
        )
        for each in written
        if each.step in shown
    ]
    columns = ("step", f"{judge}, nats/token", "held-out, nats/token", "prompt", "went on to write")
    audit.tables.append(
        Table("samples", "What the net wrote at each checkpoint, from the same prompts with the same draws", columns, rows)
    )
