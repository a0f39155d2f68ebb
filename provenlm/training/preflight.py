"""Take one real batch through every step of a training before it starts.

Tokenizer, batch, model, gradients and update, checkpoint, reload and generation run with the config and files of the planned run, so
that a mistake is found within seconds.
"""

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
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
from provenlm.models.common.objective import Batch
from provenlm.models.common.spec import ModelSpec
from provenlm.models.generation import sampling
from provenlm.models.generation.logits_provider import logits_provider
from provenlm.models.generation.sampling import GREEDY
from provenlm.training.build_model import init_model
from provenlm.training.checkpoints import checkpoint
from provenlm.training.checkpoints.checkpoint import LoadedModel, ModelMetadata
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DomainBatches, build_dataloader
from provenlm.training.step import StepResult
from provenlm.training.trainer import Trainer

NUM_STEPS = 7  # the last one, generation, only for models with next-token logits
PROMPT_TOKENS, GENERATED_TOKENS = 2, 4


@dataclass(frozen=True)
class RunPlan:
    """Hold the planned run: model, configs, tokens and tokenizer.

    `domain_batches`: the domain's own batches and augmentation, see `build_dataloader`.
    """

    spec: ModelSpec
    model_config: Any
    model_metadata: ModelMetadata
    train_config: TrainConfig
    dataset: TokenDataset
    tokenizer: Tokenizer
    base_model_dir: Path | None = None
    domain_batches: DomainBatches | None = None


@dataclass
class Preflight:
    """Collect the steps that passed, each with its seconds."""

    steps_passed: list[tuple[str, float]] = field(default_factory=list)

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step and turn its exceptions into a ProvenlmError that names it.

        A ProvenlmError raised inside passes through unchanged.
        """
        start = time.perf_counter()
        try:
            yield
        except ProvenlmError:
            raise
        except Exception as error:
            message = " ".join(str(error).split())
            raise ProvenlmError(f"preflight: {name}: {type(error).__name__}: {message}") from error
        self.steps_passed.append((name, round(time.perf_counter() - start, 3)))


def run_preflight(plan: RunPlan, folder: Path, audit: MetricRecorder) -> None:
    """Run all preflight steps and record their metrics.

    Files are written below `folder` and removed. Raises ProvenlmError if a step fails.
    """
    preflight, config = Preflight(), plan.train_config
    with preflight.step("tokenizer"):
        _check_tokenizer(plan)
    with preflight.step("batch"):
        dataloader = build_dataloader(plan.dataset, config, plan.domain_batches)
        _check_batch(dataloader.train_batch(0, config.global_batch_size), plan)
    with preflight.step("model"):
        model = init_model(plan.spec, plan.model_config, plan.dataset.vocab_size, config.seed, plan.base_model_dir)
        trainer = Trainer.assemble(plan.spec, model, dataloader, config)
        initial_params = {name: parameter.detach().cpu().clone() for name, parameter in model.named_parameters()}
    with preflight.step("loss, gradients and update"):
        step = next(trainer.steps())
        num_updated = _count_updated(step, model, initial_params)
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="preflight-", dir=folder) as temp_dir:
        with preflight.step("checkpoint"):
            state = step.snapshot()
            checkpoint.save_checkpoint(
                Path(temp_dir) / "checkpoint", state, {checkpoint.METADATA_FILE: plan.model_metadata.to_json()}
            )
            checkpoint_bytes = sum(path.stat().st_size for path in Path(temp_dir).rglob("*") if path.is_file())
        with preflight.step("reload"):
            loaded = checkpoint.load_model(Path(temp_dir) / "checkpoint")
            _check_weights(loaded.model, state.state_dicts["model"])
    if plan.spec.logits is not None:
        with preflight.step("generation"):
            _check_generation(plan, loaded, trainer.device)
    _record_metrics(audit, preflight, step, num_updated, checkpoint_bytes, plan.spec.logits is not None)


def _check_tokenizer(plan: RunPlan) -> None:
    """Raise ValueError unless the tokenizer is the one that made the tokens."""
    if plan.tokenizer.vocab_size != plan.dataset.vocab_size:
        raise ValueError(f"the tokenizer's vocab_size must be {plan.dataset.vocab_size}, got {plan.tokenizer.vocab_size}")
    split = plan.dataset.train
    document = [int(i) for i in split.ids[split.doc_offsets[0] : split.doc_offsets[1]]]
    ids = [i for i in document if i not in plan.tokenizer.special_tokens.values()]
    reencoded_ids = plan.tokenizer.encode([Record.from_content(plan.tokenizer.decode(ids), "", "preflight")])[0].tolist()
    if reencoded_ids != ids:
        mismatch_index = next(
            (n for n, (a, b) in enumerate(zip(reencoded_ids, ids, strict=False)) if a != b), min(len(reencoded_ids), len(ids))
        )
        raise ValueError(f"decoding and re-encoding the first document changes it from token {mismatch_index} on")


def _check_batch(batch: Batch, plan: RunPlan) -> None:
    """Raise ValueError unless the batch has targets and its token ids are in range."""
    if not batch.num_targets:
        raise ValueError("the first batch has no target with a loss")
    for name in ("inputs_BT", "targets_BT"):
        ids = getattr(batch, name, None)  # batches of a domain may have other tensors
        if ids is not None and int(ids.max()) >= plan.dataset.vocab_size:
            raise ValueError(f"token ids must be < {plan.dataset.vocab_size}, the first batch has {int(ids.max())}")


def _count_updated(step: StepResult, model: nn.Module, initial_params: dict[str, Tensor]) -> int:
    """Count the parameter tensors that the first update changed.

    Raises ValueError if there are none, or if the update was skipped.
    """
    if step.skip_reason:
        raise ValueError(f"the first update was skipped: {step.skip_reason}")
    if not math.isfinite(step.grad_norm) or step.grad_norm <= 0:
        raise ValueError(f"the gradient norm of the first step must be finite and > 0, got {step.grad_norm}")
    num_updated = sum(
        not torch.equal(parameter.detach().cpu(), initial_params[name]) for name, parameter in model.named_parameters()
    )
    if not num_updated:
        raise ValueError("the first update changed no parameter")
    return num_updated


def _check_weights(model: nn.Module, expected: Any) -> None:
    """Raise ValueError unless the reloaded weights equal the saved ones."""
    actual = model.state_dict()
    mismatches = [name for name, tensor in expected.items() if name not in actual or not torch.equal(actual[name], tensor.cpu())]
    if mismatches:
        raise ValueError(f"{mismatches[0]} differs from the saved tensor")


def _check_generation(plan: RunPlan, loaded: LoadedModel, device: torch.device) -> None:
    """Generate a few tokens after the first ones of the corpus and decode them."""
    special_tokens = plan.dataset.special_tokens
    model = loaded.model.to(device)
    provider = logits_provider(plan.spec, model, plan.train_config.seq_len, special_tokens, device, use_cache=False)
    prompt = [int(token_id) for token_id in plan.dataset.train.ids[:PROMPT_TOKENS]]
    (output_ids,) = sampling.generate(provider, [prompt], GREEDY, GENERATED_TOKENS, special_tokens.get("eos"), torch.Generator())
    if not output_ids:
        raise ValueError("the model generated no token")
    plan.tokenizer.decode(output_ids)


def _record_metrics(
    audit: MetricRecorder, preflight: Preflight, step: StepResult, num_updated: int, checkpoint_bytes: int, can_generate: bool
) -> None:
    """Record what passed, and how long it took."""
    with audit.scope("preflight") as metrics:
        num_passed, total_seconds = len(preflight.steps_passed), sum(seconds for _, seconds in preflight.steps_passed)
        metrics.add_measurement("steps_passed", num_passed, "steps", "Preflight steps that passed before training started")
        num_planned = NUM_STEPS if can_generate else NUM_STEPS - 1
        metrics.add_check("steps_passed", f"== {num_planned}", "training started without a complete preflight test")
        metrics.add_measurement("seconds", round(total_seconds, 3), "s", "Wall time of the preflight test")
        loss = next(value for name, value in step.terms.items() if name.endswith("loss"))
        metrics.add_measurement("loss", loss, "nats/token", "Minimized loss of the first batch in the preflight test")
        description = "Parameter tensors that the first update of the preflight test changed"
        metrics.add_measurement("params_updated", num_updated, "tensors", description)
        metrics.add_measurement("checkpoint_bytes", checkpoint_bytes, "bytes", "Size of a checkpoint in the preflight test")
        description = "Steps that one real batch passed before training, with the config and files of this run"
        metrics.tables.append(AuditTable("steps", description, ("step", "seconds"), preflight.steps_passed))
