"""Assemble what the evaluation of a trained model needs.

It comes from the files of the model, its corpus and its recipe.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from provenlm.core.config import parse_config
from provenlm.core.errors import CheckpointError
from provenlm.core.interfaces import Tokenizer
from provenlm.data.token_dataset import TokenDataset
from provenlm.evaluation.probe import EvalContext
from provenlm.evaluation.probes.parameter_count import CountOnlyModel
from provenlm.evaluation.probes.resume_bitexact import TrainingCase
from provenlm.evaluation.probes.seed_rerun import retrain_with_seed
from provenlm.evaluation.suite import CountOnlyConfig
from provenlm.evaluation.sweep import ModelVariants
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import ModelSpec
from provenlm.training.base_model_files import read_training_records
from provenlm.training.build_model import init_model
from provenlm.training.callbacks.history import StepHistory
from provenlm.training.checkpoints.checkpoint import LoadedModel, load_model
from provenlm.training.config import TrainConfig
from provenlm.training.dataloader import DomainBatches, build_dataloader, resolve_max_steps
from provenlm.training.trainer import Trainer


def require_same_vocab(trained_model: LoadedModel, tokens: TokenDataset, folder: str, recipe: str) -> None:
    """Raise CheckpointError unless model and corpus have the same vocabulary size."""
    if trained_model.metadata.vocab_size != tokens.vocab_size:
        raise CheckpointError(
            f"{folder}: must have the vocab_size {tokens.vocab_size} of its corpus, got {trained_model.metadata.vocab_size}; "
            f"`dvc repro train@{recipe}` retrains it"
        )


def make_small_builder(trained_model: LoadedModel, overrides: Mapping[str, Any], location: str) -> Callable[[int], nn.Module]:
    """Return a function from a vocabulary size to a small model.

    The model section of the small model differs by `overrides`. Raises ConfigError.
    """
    spec = trained_model.spec
    small_config: Any = parse_config(spec.config_type, {**trained_model.metadata.config, **overrides}, location)
    return lambda vocab_size: spec.build(small_config, vocab_size)


def make_training_case(
    spec: ModelSpec,
    tokens: TokenDataset,
    train_config: TrainConfig,
    build_small: Callable[[int], nn.Module],
    domain_batches: DomainBatches | None = None,
) -> TrainingCase:
    """Return the recipe's training of a small model, on the batches of its domain."""
    return TrainingCase(
        spec,
        lambda: build_small(tokens.vocab_size),
        build_dataloader(tokens, train_config, domain_batches),
        resolve_max_steps(train_config, tokens, domain_batches),
    )


def make_eval_context(
    trained_model: LoadedModel,
    tokens: TokenDataset,
    tokenizer: Tokenizer,
    case: TrainingCase,
    build_small: Callable[[int], nn.Module],
    seed: int,
    domain_batches: DomainBatches | None = None,
    base_model_dir: Path | None = None,
) -> EvalContext:
    """Return what probes may use.

    The initial model is the one that training with `seed` starts from; it has the weights in `base_model_dir`, if there is one.
    """
    spec, model_config, vocab_size = trained_model.spec, trained_model.model_config, trained_model.metadata.vocab_size
    to_hf = spec.to_hf

    def losses(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {objective.name: objective.loss(batch)["loss"] for objective in spec.objectives(model, IGNORE)}

    def objective_params(model: nn.Module) -> dict[str, list[nn.Parameter]]:
        return {
            objective.name: [parameter for group in objective.param_groups.values() for parameter in group]
            for objective in spec.objectives(model, IGNORE)
        }

    def make_trainer(model: nn.Module, dataset: TokenDataset, changes: Mapping[str, Any]) -> Trainer:
        config = replace(case.config, distributed=None, sample=None, loggers=(), **changes)
        return Trainer.create(spec, model_config, dataset, config, model=model, domain_batches=domain_batches)

    return EvalContext(
        model=trained_model.model,
        logits=spec.logits or _raise_without_logits,
        logits_with_cache=spec.logits_with_cache,
        build_untrained=lambda: init_model(spec, model_config, vocab_size, seed, base_model_dir),
        build_small=build_small,
        losses=losses,
        train_batch=lambda num_sequences: case.dataloader.batch_at(0, num_sequences),
        to_hf=None if to_hf is None else lambda state_dict: to_hf(model_config, vocab_size, state_dict),
        analytic_counts=spec.num_params(model_config, vocab_size),
        tokenizer=tokenizer,
        tokens=tokens,
        max_seq_len=trained_model.metadata.seq_len,
        seed=seed,
        token_batches=spec.logits is not None,
        objective_params=objective_params,
        objectives=lambda model: spec.objectives(model, IGNORE),
        make_trainer=make_trainer,
        max_positions=spec.max_seq_len(model_config),
        latent=spec.latent,
        has_base_model=base_model_dir is not None,
        base_training_records=None if base_model_dir is None else read_training_records(base_model_dir),
    )


def make_variants(
    context: EvalContext,
    trained_model: LoadedModel,
    train_config: TrainConfig,
    history: StepHistory,
    folder: Path,
    domain_batches: DomainBatches | None = None,
) -> ModelVariants:
    """Return further models of the same recipe.

    They are retrained with other seeds, or loaded from the checkpoints in `folder`.
    """
    checkpoints = [
        (int(path.name.removeprefix("step-")), lambda path=path: replace(context, model=load_model(path).model))
        for path in sorted(folder.glob("step-*"))
    ]

    def retrain(seed: int) -> tuple[EvalContext, float]:
        model, seconds = retrain_with_seed(
            trained_model.spec, trained_model.model_config, context.tokens, train_config, seed, domain_batches
        )
        return replace(context, model=model), seconds

    baseline = (train_config.seed, sum(seconds for _, seconds in history.series("seconds")))
    return ModelVariants(baseline, retrain, checkpoints, len(history.effective_rows()))


def make_count_only_models(spec: ModelSpec, configs: Mapping[str, CountOnlyConfig], location: str) -> dict[str, CountOnlyModel]:
    """Return the models whose parameters are counted.

    Raises ConfigError for a section that the model package does not accept.
    """
    return {name: _count_only_model(spec, config, f"{location}.{name}.model") for name, config in configs.items()}


def _count_only_model(spec: ModelSpec, config: CountOnlyConfig, location: str) -> CountOnlyModel:
    model_config: Any = parse_config(spec.config_type, config.model, location)
    return CountOnlyModel(lambda: spec.build(model_config, config.vocab_size), spec.num_params(model_config, config.vocab_size))


def _raise_without_logits(model: nn.Module, tokens_BT: Tensor) -> Tensor:
    raise ValueError("the model has no capability next_token_logits")
