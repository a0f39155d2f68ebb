"""A net beside its counterpart of Hugging Face's transformers: the same weights, the same tokens."""

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

from provenlm.core import config
from provenlm.models.common.objective import IGNORE, Batch
from provenlm.models.common.spec import ModelSpec
from provenlm.training.config import TrainConfig

VOCABULARY = 61


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


class Beside:
    """What a test needs to hold one of our nets against another's."""

    @staticmethod
    def tokens(rows: int = 2, length: int = 17) -> Tensor:
        return torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(5))

    @staticmethod
    def built(face: ModelSpec, settings: Any) -> nn.Module:
        """A net with no parameter left at zero."""
        torch.manual_seed(0)
        model = face.build(settings, VOCABULARY)
        for parameter in model.parameters():
            nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
        return model

    @staticmethod
    def counted(face: ModelSpec, settings: Any, vocabulary: int) -> int:
        with torch.device("meta"):
            return sum(p.numel() for p in face.build(settings, vocabulary).parameters())

    @staticmethod
    def theirs(face: ModelSpec, settings: Any, model: nn.Module, **said: Any) -> nn.Module:
        """The counterpart, made from what `published` gives and nothing else; `said` is added to its configuration."""
        transformers = pytest.importorskip("transformers")
        published = face.to_hf(settings, VOCABULARY, model.state_dict())
        (name,) = published.config["architectures"]
        kind = getattr(transformers, name)
        other = kind._from_config(kind.config_class(**{**published.config, **said}), attn_implementation="sdpa")
        missing, unexpected = other.load_state_dict(dict(published.state_dict), strict=False)
        assert not unexpected
        assert [name for name in missing if name != "lm_head.weight" or not settings.tied] == []
        other.tie_weights()
        return other.eval()

    @staticmethod
    def gradients(face: ModelSpec, settings: Any, model: nn.Module) -> Mapping[str, Tensor]:
        """Of our parameters, in the names and layout of the counterpart."""
        named = {name: p.grad for name, p in model.named_parameters()}
        return face.to_hf(settings, VOCABULARY, named).state_dict

    @staticmethod
    def losses(face: ModelSpec, model: nn.Module, ids: Tensor) -> Mapping[str, Tensor]:
        """Our objective's terms where every token is to be predicted from those before it."""
        (objective,) = face.objectives(model, IGNORE)
        return objective.loss(Batch(ids, torch.cat((ids[:, 1:], torch.full((len(ids), 1), IGNORE)), 1)))

    @staticmethod
    def flops(face: ModelSpec, settings: Any, rows: int, length: int) -> int:
        """Of a training step on `rows` rows, as torch counts the products that it really dispatched."""
        model = Beside.built(face, settings)
        in_place = {torch.ops.aten.addmm_: lambda _, left, right, **__: 2 * left[0] * left[1] * right[1]}  # torch's table lacks it
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False, custom_mapping=in_place) as counter:
            Beside.losses(face, model, Beside.tokens(rows, length))["loss"].backward()
        return counter.get_total_flops()


@pytest.fixture
def beside() -> type[Beside]:
    return Beside


@pytest.fixture
def settings_of() -> Callable[..., TrainConfig]:
    """The `train` section of ladder_memorise with changes."""
    table = config.load_params(Path(__file__).parents[2] / "params.yaml")
    return partial(replace, table.parse_section("recipes", "ladder_memorise", "train", TrainConfig))
