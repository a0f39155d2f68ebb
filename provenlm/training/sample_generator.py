"""Generate samples from fixed prompts during training."""

import json
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import nn

from provenlm.core import rng
from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.errors import ConfigError
from provenlm.core.interfaces import Tokenizer
from provenlm.models.common.spec import ModelSpec
from provenlm.models.generation.logits_provider import logits_provider
from provenlm.models.generation.sampling import generate
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.config import TrainConfig
from provenlm.training.config_sections import SampleConfig

MAX_TABLE_STEPS = 12  # keeps the audit small; samples.json holds all of them


class TrainingSample(NamedTuple):
    """Hold a generated text, its prompt and the step after which it was generated."""

    step: int
    prompt: str
    text: str


class SampleGenerator:
    """Continue the same prompts with the same random draws at every checkpoint.

    Only the weights change between two calls.
    """

    def __init__(
        self, spec: ModelSpec, model: nn.Module, tokenizer: Tokenizer, config: SampleConfig, train_config: TrainConfig
    ) -> None:
        """Encode the prompts. Raises ConfigError if the tokenizer cannot encode one."""
        self.spec, self.model, self.tokenizer, self.config, self.train_config = spec, model, tokenizer, config, train_config
        self.prompts = [tokenizer.encode_prompt(prompt) for prompt in config.prompts]
        if not all(self.prompts):
            raise ConfigError(
                "train.sample.prompts must not be empty texts: the tokenizer of this corpus has no beginning-of-text token"
            )

    def generate(self, step: int) -> list[TrainingSample]:
        """Continue every prompt once.

        Uses a generator of its own, so that training draws the same random numbers with and without samples.
        """
        device = next(self.model.parameters()).device
        provider = logits_provider(self.spec, self.model.eval(), self.train_config.seq_len, self.tokenizer.special_tokens, device)
        generator = torch.Generator().manual_seed(rng.derive_seed(self.train_config.seed, "samples"))
        eos_id = self.tokenizer.special_tokens.get("eos")
        with torch.compiler.set_stance("force_eager"):  # every sequence length would be compiled separately
            outputs = generate(provider, self.prompts, self.config.sampling, self.config.max_new_tokens, eos_id, generator)
        texts = [self.tokenizer.describe(ids) for ids in outputs]
        return [TrainingSample(step, prompt, text) for prompt, text in zip(self.config.prompts, texts, strict=True)]


def samples_to_json(samples: Sequence[TrainingSample]) -> bytes:
    """Serialize samples to JSON."""
    return json.dumps(samples, indent=1, ensure_ascii=False).encode()


def samples_from_json(data: bytes) -> list[TrainingSample]:
    """Parse samples from JSON."""
    return [TrainingSample(*item) for item in json.loads(data)]


def record_samples(audit: MetricRecorder, samples: Sequence[TrainingSample], history: StepHistory, eval_term: str) -> None:
    """Record the samples as a table, each with the losses at its step.

    At most `MAX_TABLE_STEPS` evenly spaced checkpoints are shown.
    """
    losses, val_losses = dict(history.series(eval_term)), history.series(f"val.{eval_term}")
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
    columns = ("step", f"{eval_term}, nats/token", "validation, nats/token", "prompt", "continuation")
    description = "Continuations of the same prompts with the same random draws, by checkpoint"
    audit.tables.append(AuditTable("samples", description, columns, rows))
