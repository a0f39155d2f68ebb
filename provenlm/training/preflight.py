"""All that a training is about to use in; out, that one real batch went through every link of it, or a ProvenlmError that names the link.

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

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.core.interfaces import Tokenizer
from provenlm.core.records import Record
from provenlm.data.token_dataset import TokenDataset
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import ModelSpec
from provenlm.models.generation import sampling
from provenlm.models.generation.sampling import GREEDY, UncachedLogits
from provenlm.training.build_model import arrange, fresh
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import LoadedModel, ModelMetadata
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import build_dataloader
from provenlm.training.loop import train_steps
from provenlm.training.run import build_callbacks
from provenlm.training.step import StepResult

PROMPT_TOKENS, GENERATED_TOKENS = 2, 4  # tokens


@dataclass(frozen=True)
class RunPlan:
    """The run to come: its net and the settings of both, its tokens and the codec that made them, and where it will compute."""

    spec: ModelSpec
    model_config: Any
    model_metadata: ModelMetadata
    train_config: TrainConfig
    dataset: TokenDataset
    tokenizer: Tokenizer
    device: torch.device


@dataclass
class Preflight:
    """The links that held, each with its seconds."""

    steps_passed: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """What goes wrong inside becomes a ProvenlmError that names the link; mistakes in params.yaml stay as they are."""
        start = time.perf_counter()
        try:
            yield
        except ProvenlmError:
            raise
        except Exception as error:
            message = " ".join(str(error).split())
            raise ProvenlmError(f"not ready to train: {name}: {type(error).__name__}: {message}") from error
        self.steps_passed.append((name, round(time.perf_counter() - start, 3)))


def run_preflight(plan: RunPlan, folder: Path, audit: MetricRecorder) -> None:
    """Take the first batch through everything; nothing that it makes below `folder` stays. ProvenlmError if a link breaks."""
    preflight, config = Preflight(), plan.train_config
    with preflight.step("tokenizer"):
        _check_tokenizer(plan)
    with preflight.step("batch"):
        dataloader = build_dataloader(plan.dataset, config)
        batch = dataloader.batch_at(0, config.global_batch_size)
        _check_batch(batch, plan)
    with preflight.step("net"):
        model = fresh(plan.spec, plan.model_config, plan.dataset.vocab_size, config.seed).to(plan.device)
        arrange(model, config)
        initial_params = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
        objectives = plan.spec.objectives(model, IGNORE)
    with preflight.step("loss, gradients and update"):
        callbacks = build_callbacks(config, objectives[0].eval_term)
        step = next(train_steps(model, objectives, dataloader, callbacks, config, None, lambda: None))
        num_updated = _count_updated(step, model, initial_params)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="ready-", dir=folder) as temp_dir:
        with preflight.step("checkpoint"):
            state = step.snapshot()
            checkpoint.save_checkpoint(Path(temp_dir) / "checkpoint", state, {"net.json": plan.model_metadata.to_json()})
            checkpoint_bytes = sum(path.stat().st_size for path in Path(temp_dir).rglob("*") if path.is_file())
        with preflight.step("reading it back"):
            loaded = checkpoint.load_model(Path(temp_dir) / "checkpoint")
            _check_weights(loaded.model, state.state_dicts["model"])
    with preflight.step("generation"):
        _check_generation(plan, loaded, batch)
    _record_metrics(audit, preflight, step, num_updated, checkpoint_bytes)


def _check_tokenizer(plan: RunPlan) -> None:
    """ValueError unless the codec is that of the tokens."""
    if plan.tokenizer.vocab_size != plan.dataset.vocab_size:
        raise ValueError(f"the codec has a vocabulary of {plan.tokenizer.vocab_size}, the tokens one of {plan.dataset.vocab_size}")
    split = plan.dataset.train
    ids = [
        int(i)
        for i in split.ids[split.doc_offsets[0] : split.doc_offsets[1]]
        if int(i) not in plan.tokenizer.special_tokens.values()
    ]
    reencoded_ids = plan.tokenizer.encode([Record.from_content(plan.tokenizer.decode(ids), "", "ready")])[0].tolist()
    if reencoded_ids != ids:
        mismatch_index = next(
            (n for n, (a, b) in enumerate(zip(reencoded_ids, ids, strict=False)) if a != b), min(len(reencoded_ids), len(ids))
        )
        raise ValueError(f"the first document, decoded and encoded again, is not itself from token {mismatch_index} on")


def _check_batch(batch: Batch, plan: RunPlan) -> None:
    target_ids = batch.targets_BT[batch.targets_BT != IGNORE]
    if not len(target_ids):
        raise ValueError("no target of the first batch carries loss")
    max_id = int(max(batch.inputs_BT.max(), target_ids.max()))
    if max_id >= plan.dataset.vocab_size:
        raise ValueError(f"the first batch holds the id {max_id}; the vocabulary ends at {plan.dataset.vocab_size - 1}")


def _count_updated(step: StepResult, model: nn.Module, initial_params: dict[str, Tensor]) -> int:
    """How many tensors the first update moved. ValueError if none, or if there was no sound update."""
    if step.skip_reason:
        raise ValueError(f"the first update was skipped: {step.skip_reason}")
    if not math.isfinite(step.grad_norm) or step.grad_norm <= 0:
        raise ValueError(f"the gradient norm of the first step is {step.grad_norm}")
    num_updated = sum(
        not torch.equal(parameter.detach().cpu(), initial_params[name]) for name, parameter in model.named_parameters()
    )
    if not num_updated:
        raise ValueError("the first update moved no parameter")
    return num_updated


def _check_weights(model: nn.Module, expected: Any) -> None:
    actual = model.state_dict()
    mismatches = [name for name, tensor in expected.items() if name not in actual or not torch.equal(actual[name], tensor.cpu())]
    if mismatches:
        raise ValueError(f"{mismatches[0]} is not what was written")


def _check_generation(plan: RunPlan, loaded: LoadedModel, batch: Batch) -> None:
    """A few tokens from the first of the batch, decoded."""
    special_tokens = plan.dataset.special_tokens
    model = loaded.model.to(plan.device)
    logits_provider = UncachedLogits(
        partial(plan.spec.logits, model), plan.train_config.seq_len, special_tokens.get("pad", 0), plan.device
    )
    prompt = batch.inputs_BT[0, :PROMPT_TOKENS].tolist()
    (output_ids,) = sampling.generate(
        logits_provider, [prompt], GREEDY, GENERATED_TOKENS, special_tokens.get("eos"), torch.Generator()
    )
    if not output_ids:
        raise ValueError("nothing was written")
    plan.tokenizer.decode(output_ids)


def _record_metrics(audit: MetricRecorder, preflight: Preflight, step: StepResult, num_updated: int, checkpoint_bytes: int) -> None:
    with audit.scope("ready") as metrics:
        metrics.add_measurement(
            "links", len(preflight.steps_passed), "links", "of the chain that the first batch went through before training began"
        )
        metrics.add_measurement("seconds", round(sum(seconds for _, seconds in preflight.steps_passed), 3), "s", "that this took")
        metrics.add_measurement(
            "loss",
            next(value for name, value in step.terms.items() if name.endswith("loss")),
            "nats/token",
            "what is minimised, first batch",
        )
        metrics.add_measurement("moved", num_updated, "tensors", "parameter tensors that the first update moved")
        metrics.add_measurement("checkpoint", checkpoint_bytes, "bytes", "of a checkpoint of this run")
        description = "what one real batch went through before training began, with the settings and files of this run"
        metrics.tables.append(AuditTable("chain", description, ("link", "seconds"), preflight.steps_passed))
