"""Define the `validate` section of a recipe and the standard probes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from provenlm.core.errors import ConfigError
from provenlm.evaluation.probe import EvalContext, Probe
from provenlm.evaluation.probes.attention_patterns import attention_probe, copying_probe, has_decoder_blocks
from provenlm.evaluation.probes.causality import CausalityConfig, causality_probes
from provenlm.evaluation.probes.compile_parity import compile_parity_probes
from provenlm.evaluation.probes.compute_optimality import compute_optimality_probes, is_within_scaling_law
from provenlm.evaluation.probes.generation_quality import GeneratedSample, GenerationEvalConfig, generation_probe, has_prompts
from provenlm.evaluation.probes.gradcheck import gradcheck_probe
from provenlm.evaluation.probes.gradcheck_ops import gradcheck_ops_probe
from provenlm.evaluation.probes.gradient_reach import gradient_reach_probe
from provenlm.evaluation.probes.heldout_loss import LossEvalConfig, loss_probes
from provenlm.evaluation.probes.improvement import improvement_probes
from provenlm.evaluation.probes.learning_curve import MIN_POINTS, CurvePoint, learning_curve_probe
from provenlm.evaluation.probes.model_metrics import ModelMetricsFn, model_metrics_probe
from provenlm.evaluation.probes.overfit_batch import OverfitBatchConfig, overfit_batch_probe
from provenlm.evaluation.probes.parameter_count import CountOnlyModel, param_count_probes
from provenlm.evaluation.probes.parity import parity_probes
from provenlm.evaluation.probes.resume_bitexact import TrainingCase, resume_probe
from provenlm.evaluation.probes.split_overlap import split_overlap_probe
from provenlm.evaluation.probes.throughput import ThroughputConfig, throughput_probe
from provenlm.evaluation.sweep import ModelVariants, SweepConfig
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.moe_experts import Experts
from provenlm.training.checkpoints.checkpoint import load_checkpoint

# The small model of expensive probes has at most this size; models without these keys are used as they are.
SMALL_MODEL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_encoder_layers": 1,
    "num_decoder_layers": 1,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


@dataclass(frozen=True)
class CountOnlyConfig:
    """Configure a model whose parameters are counted and which is never trained.

    It has the architecture of the recipe.
    """

    vocab_size: int
    model: dict[str, Any]  # parsed by the model package


@dataclass(frozen=True)
class ValidateConfig:
    """Configure the `validate` section of a recipe.

    Every key has a default, so that `validate: {}` is enough. Defaults that depend on the recipe are null here and are derived by
    `scale_to_recipe`: `small_model_overrides` from the size of the model; `generation.prompt_tokens`, `generation.max_new_tokens`
    and `throughput.seq_lens` from the training sequence length.
    """

    threads: int = 2  # CPU threads of torch
    small_model_overrides: dict[str, Any] | None = (
        None  # keys of the model section that differ in the small model of expensive probes
    )
    overfit_batch: OverfitBatchConfig = field(default_factory=OverfitBatchConfig)
    loss_eval: LossEvalConfig = field(default_factory=LossEvalConfig)
    causality: CausalityConfig = field(default_factory=CausalityConfig)
    generation: GenerationEvalConfig = field(default_factory=GenerationEvalConfig)
    throughput: ThroughputConfig = field(default_factory=ThroughputConfig)
    count_only_models: dict[str, CountOnlyConfig] = field(default_factory=dict)  # further shapes whose parameters are counted
    sweeps: SweepConfig | None = None  # null: no further trainings
    probes: dict[str, Any] = field(default_factory=dict)  # parsed by the domain

    def __post_init__(self) -> None:
        if self.threads < 1:
            raise ValueError(f"threads must be >= 1, got {self.threads}")


def scale_to_recipe(config: ValidateConfig, model_section: Mapping[str, Any], seq_len: int) -> ValidateConfig:
    """Fill in the defaults that depend on the recipe.

    They depend on the model section and the training sequence length.
    """
    overrides = config.small_model_overrides
    if overrides is None:
        is_large = model_section.get("hidden_size", 0) > SMALL_MODEL["hidden_size"]
        overrides = (
            {key: min(model_section[key], limit) for key, limit in SMALL_MODEL.items() if key in model_section} if is_large else {}
        )
        if "num_attention_heads" in overrides and overrides["num_attention_heads"] % model_section.get("num_key_value_heads", 1):
            overrides["num_key_value_heads"] = overrides["num_attention_heads"]
    return replace(
        config,
        small_model_overrides=overrides,
        generation=config.generation.scale_to(seq_len),
        throughput=config.throughput.scale_to(seq_len),
    )


def standard_probes(
    config: ValidateConfig,
    model_metrics: ModelMetricsFn | None,
    count_only_models: Mapping[str, CountOnlyModel],
    collected_samples: list[GeneratedSample],
    case: TrainingCase,
    curve: Sequence[CurvePoint],
) -> dict[str, Probe]:
    """Return the general probes by name, in the order in which they run.

    No recipe can leave one out. `model_metrics` computes the metrics that the model package defines; generated samples are
    appended to `collected_samples`; `case` is the training of a small model; `curve` holds the losses of the finished training.
    """
    num_tokens = config.causality.num_tokens
    return {
        "gradcheck_ops": gradcheck_ops_probe(),
        "gradcheck": gradcheck_probe(),
        "gradient_reach": gradient_reach_probe(),
        "overfit_batch": overfit_batch_probe(config.overfit_batch),
        **loss_probes(config.loss_eval),
        **improvement_probes(config.loss_eval.tokens_per_batch, num_tokens),
        **param_count_probes(count_only_models),
        **compute_optimality_probes(),
        "contamination": split_overlap_probe(),
        **causality_probes(config.causality),
        **parity_probes(num_tokens),
        "model": model_metrics_probe(model_metrics, num_tokens),
        "attention": attention_probe(config.generation.prompts),
        "copying": copying_probe(),
        "generation": generation_probe(config.generation, collected_samples),
        "throughput": throughput_probe(config.throughput),
        "learning_curve": learning_curve_probe(curve),
        "resume": resume_probe(case, load_checkpoint),
        **compile_parity_probes(case),
    }


def find_conditions(
    context: EvalContext,
    config: ValidateConfig,
    case: TrainingCase,
    curve: Sequence[CurvePoint],
    variants: ModelVariants,
    has_base_model: bool,
) -> dict[str, bool | str]:
    """Return which of CONDITIONS the recipe and its data meet.

    Each is true, false or the reason why it is not met.
    """
    modules = list(context.model.modules())
    return {
        "validation_split": len(context.tokens.val.record_ids) > 0,
        "val_history": len(curve) >= MIN_POINTS,
        "random_init": not has_base_model,
        "train.compile": case.config.compile,
        "hf_format": context.to_hf is not None and _has_hf_format(context),
        "attention_layers": any(isinstance(module, Attention) for module in modules),
        "decoder_blocks": has_decoder_blocks(context.model),
        "expert_layers": any(isinstance(module, Experts) for module in modules),
        "scaling_law": is_within_scaling_law(context),
        "generation_prompts": has_prompts(config.generation, context),
        "count_only_models": bool(config.count_only_models),
        "sweep_seeds": config.sweeps is not None and bool(config.sweeps.seeds),
        "sweep_checkpoints": config.sweeps is not None and bool(variants.checkpoints),
    }


def _has_hf_format(context: EvalContext) -> bool | str:
    """Return true, or the reason why transformers cannot represent the model."""
    assert context.to_hf is not None
    try:
        context.to_hf(context.model.state_dict())
    except ConfigError as error:
        return str(error)
    return True
