"""A net in the middle of its training and prompts in, what it goes on to write out: its quality beside its loss."""

import json
from collections.abc import Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import nn

from provenlm.core import rng
from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.core.interfaces import Tokenizer
from provenlm.models.common.spec import ModelSpec
from provenlm.models.generation.sampling import CachedLogits, UncachedLogits, generate
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import SampleConfig

MAX_TABLE_STEPS = 12  # checkpoints at most, so that an audit stays small; all are in samples.json


class TrainingSample(NamedTuple):
    """After `step`, behind `prompt`."""

    step: int
    prompt: str
    text: str


def make_logits_provider(
    spec: ModelSpec, model: nn.Module, special_tokens: Mapping[str, int], max_seq_len: int, device: torch.device
) -> CachedLogits:
    """What `generate` asks for the next token."""
    return CachedLogits(
        partial(spec.logits_with_cache, model),
        UncachedLogits(partial(spec.logits, model), max_seq_len, special_tokens.get("pad", 0), device),
    )


class SampleGenerator:
    """Goes on from the same prompts with the same draws every time, so that only the net makes the difference."""

    def __init__(
        self, spec: ModelSpec, model: nn.Module, tokenizer: Tokenizer, config: SampleConfig, train_config: TrainConfig
    ) -> None:
        """ProvenlmError if the codec cannot write a prompt down."""
        self.spec, self.model, self.tokenizer, self.config, self.train_config = spec, model, tokenizer, config, train_config
        self.prompts = [tokenizer.encode_prompt(prompt) for prompt in config.prompts]
        if not all(self.prompts):
            raise ProvenlmError(
                "train.samples.prompts: this codec has no token that begins a text; each needs at least one character"
            )

    def generate(self, step: int) -> list[TrainingSample]:
        """Draws from a generator of its own: training goes on as if nothing had been written."""
        device = next(self.model.parameters()).device
        logits_provider = make_logits_provider(
            self.spec, self.model.eval(), self.tokenizer.special_tokens, self.train_config.seq_len, device
        )
        generator = torch.Generator().manual_seed(rng.derive_seed(self.train_config.seed, "samples"))
        eos_id = self.tokenizer.special_tokens.get("eos")
        with torch.compiler.set_stance("force_eager"):  # every token is a shape that would be compiled anew
            outputs = generate(logits_provider, self.prompts, self.config.sampling, self.config.max_new_tokens, eos_id, generator)
        texts = [self.tokenizer.decode(ids).decode("utf-8", "replace") for ids in outputs]
        return [TrainingSample(step, prompt, text) for prompt, text in zip(self.config.prompts, texts, strict=True)]


def samples_to_json(samples: Sequence[TrainingSample]) -> bytes:
    return json.dumps(samples, indent=1, ensure_ascii=False).encode()


def samples_from_json(data: bytes) -> list[TrainingSample]:
    return [TrainingSample(*item) for item in json.loads(data)]


def record_samples(audit: MetricRecorder, samples: Sequence[TrainingSample], history: StepHistory, eval_term: str) -> None:
    """All that was written as a table, each beside the losses at its step; of many checkpoints some, evenly spaced."""
    losses, val_losses = dict(history.series(eval_term)), history.series(f"held_out.{eval_term}")
    steps = sorted({sample.step for sample in samples})
    table_steps = {steps[round(n * (len(steps) - 1) / (MAX_TABLE_STEPS - 1))] for n in range(MAX_TABLE_STEPS)} if steps else set()
    rows = [
        (
            sample.step,
            losses[sample.step],
            next((loss for step, loss in reversed(val_losses) if step <= sample.step), ""),
            sample.prompt,
            sample.text,
        )
        for sample in samples
        if sample.step in table_steps
    ]
    columns = ("step", f"{eval_term}, nats/token", "held-out, nats/token", "prompt", "went on to write")
    audit.tables.append(
        AuditTable("samples", "What the net wrote at each checkpoint, from the same prompts with the same draws", columns, rows)
    )
