"""Compare a model with its counterpart in Hugging Face transformers: same weights, same tokens."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from provenlm.core.config import load_params
from provenlm.models.common.objective import IGNORE, TokenBatch
from provenlm.models.common.spec import ModelSpec
from provenlm.training.config import TrainConfig

VOCAB_SIZE = 61


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class ModelHarness:
    """Build a model with random weights, and its counterpart."""

    @staticmethod
    def tokens(batch_size: int = 2, seq_len: int = 17) -> Tensor:
        return torch.randint(0, VOCAB_SIZE, (batch_size, seq_len), generator=torch.Generator().manual_seed(5))

    @staticmethod
    def build_random(spec: ModelSpec, config: Any) -> nn.Module:
        """Build a model in which no parameter is zero."""
        torch.manual_seed(0)
        model = spec.build(config, VOCAB_SIZE)
        for parameter in model.parameters():
            nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
        return model

    @staticmethod
    def count_params(spec: ModelSpec, config: Any, vocab_size: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in spec.build(config, vocab_size).parameters())

    @staticmethod
    def hf_model(spec: ModelSpec, config: Any, model: nn.Module, **overrides: Any) -> nn.Module:
        """Build the counterpart from the export alone; `overrides` are added to its config."""
        transformers = pytest.importorskip("transformers")
        export = spec.to_hf(config, VOCAB_SIZE, model.state_dict())
        (name,) = export.config["architectures"]
        model_type = getattr(transformers, name)
        hf_config = model_type.config_class(**{**export.config, **overrides})
        counterpart = model_type._from_config(hf_config, attn_implementation="sdpa")
        missing, unexpected = counterpart.load_state_dict(dict(export.state_dict), strict=False)
        assert not unexpected
        assert [name for name in missing if name != "lm_head.weight" or not config.tie_word_embeddings] == []
        counterpart.tie_weights()
        return counterpart.eval()

    @staticmethod
    def hf_gradients(spec: ModelSpec, config: Any, model: nn.Module) -> Mapping[str, Tensor]:
        """Return the gradients of `model` in the names and layout of the counterpart."""
        named = {name: p.grad for name, p in model.named_parameters()}
        return spec.to_hf(config, VOCAB_SIZE, named).state_dict

    @staticmethod
    def losses(spec: ModelSpec, model: nn.Module, ids: Tensor) -> Mapping[str, Tensor]:
        """Compute the loss terms with every token as the target of those before it."""
        (objective,) = spec.objectives(model, IGNORE)
        return objective.loss(TokenBatch(ids, torch.cat((ids[:, 1:], torch.full((len(ids), 1), IGNORE)), 1)))

    @staticmethod
    def count_flops(spec: ModelSpec, config: Any, batch_size: int, seq_len: int) -> int:
        """Count the FLOPs of a training step with torch, from the products that it dispatched."""
        model = ModelHarness.build_random(spec, config)
        in_place = {torch.ops.aten.addmm_: lambda _, lhs, rhs, **__: 2 * lhs[0] * lhs[1] * rhs[1]}  # torch's table lacks it
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            ModelHarness.losses(spec, model, ModelHarness.tokens(batch_size, seq_len))["loss"].backward()
        return counter.get_total_flops()


@pytest.fixture
def harness() -> type[ModelHarness]:
    return ModelHarness


@pytest.fixture
def train_config_with() -> Callable[..., TrainConfig]:
    """Return a function that builds the train config of ladder_memorise with changes."""
    params = load_params(Path(__file__).parents[2] / "params.yaml")
    return partial(replace, params.parse_section("recipes", "ladder_memorise", "train", TrainConfig))
