"""Test which layers take adapters: all linear ones but the output embedding; a wrong pattern is refused with the real names."""

import pytest
import torch
from torch import nn

from provenlm.core.errors import ConfigError
from provenlm.domains.grids.evaluate.adaptation.adapted_model import adapted_model, inject_adapters
from provenlm.domains.grids.evaluate.adaptation.config import AdapterConfig
from provenlm.domains.grids.evaluate.adaptation.target_layers import list_layers, resolve_target_modules

ENDS = {
    "gpt2": ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"],
    "llama": [*(f"self_attn.{x}_proj" for x in "qkvo"), *(f"mlp.{name}_proj" for name in ("gate", "up", "down"))],
}
STACKS = {"gpt2": "transformer.h", "llama": "model.layers", "provenlm": "layers"}
ENDS["provenlm"] = ENDS["llama"]


@pytest.mark.parametrize("name", sorted(ENDS))
def test_auto_means_every_linear_layer_but_the_output_embedding(models, name):
    expected = {f"{STACKS[name]}.{layer}.{end}" for layer in (0, 1) for end in ENDS[name]}
    assert set(resolve_target_modules(models[name], "auto")) == expected


def test_auto_equals_all_linear_of_peft(models):
    """An independent implementation, which covers transformers' own models."""
    from peft import LoraConfig, get_peft_model

    for name in ("gpt2", "llama"):
        peft_model = get_peft_model(models[name], LoraConfig(target_modules="all-linear", fan_in_fan_out=name == "gpt2"))
        assert set(peft_model.base_model.targeted_module_names) == set(resolve_target_modules(peft_model.unload(), "auto"))
        models[name].requires_grad_(True)


@pytest.mark.parametrize(
    ("name", "patterns", "message"),
    [
        (
            "gpt2",
            ("q_proj", "v_proj"),
            "'q_proj' matches no layer of GPT2LMHeadModel; its layers: transformer.h.*.attn.c_attn (Conv1D × 2)",
        ),
        (
            "llama",
            ("c_attn",),
            "'c_attn' matches no layer of LlamaForCausalLM; its layers: model.layers.*.self_attn.q_proj (Linear × 2)",
        ),
        ("llama", ("q_proj", "qkv"), "'qkv' matches no layer"),  # peft adapts q_proj and says nothing
        ("provenlm", ("self_attn",), "'self_attn' matches layers.0.self_attn (Attention), which takes no adapter"),
        ("llama", ("lm_head",), "'lm_head' matches lm_head (Linear), which takes no adapter"),
        ("llama", ("proj",), "'proj' matches no layer"),  # no part of a name
    ],
)
def test_a_wrong_pattern_is_refused_with_the_real_names(models, name, patterns, message):
    with pytest.raises(ConfigError) as error, adapted_model(models[name], AdapterConfig(target_modules=patterns)):
        pass
    assert message in str(error.value) and "\n" not in str(error.value)
    assert all(parameter.requires_grad for parameter in models[name].parameters())


def test_a_pattern_adapts_the_layers_that_it_names_and_no_other(models):
    with adapted_model(models["gpt2"], AdapterConfig(target_modules=("attn.c_proj",), rank=2)) as adapted:
        assert adapted.targets == ("transformer.h.0.attn.c_proj", "transformer.h.1.attn.c_proj")
        assert adapted.num_trainable_params == 2 * 2 * (32 + 32)


class PartlyLinear(nn.Module):
    """Hold a Conv1D, a Linear, and a tied output embedding without a usual name."""

    def __init__(self) -> None:
        from transformers.pytorch_utils import Conv1D

        super().__init__()
        self.embedding = nn.Embedding(8, 4)
        self.first, self.second = Conv1D(6, 4), nn.Linear(6, 4)
        self.logits = nn.Linear(4, 8, bias=False)
        self.logits.weight = self.embedding.weight

    def forward(self, tokens_BT):
        return self.logits(self.second(self.first(self.embedding(tokens_BT))))


def test_a_model_with_both_kinds_of_layers_is_adapted_without_a_warning(recwarn):
    model = PartlyLinear()
    with adapted_model(model, AdapterConfig(rank=2)) as adapted:
        assert adapted.targets == ("first", "second")
        adapted.model.get_submodule("first").lora_B["default"].weight.data.fill_(0.5)
        assert adapted.merge_difference(lambda: model(torch.arange(8)[None])) < 1e-5
    assert [str(warning.message) for warning in recwarn] == []


def test_adapting_shows_no_warning(model, recwarn):
    with adapted_model(model, AdapterConfig()):
        pass
    assert [str(warning.message) for warning in recwarn] == []


@pytest.mark.parametrize("module", [nn.LayerNorm(4), nn.Sequential(nn.Embedding(4, 4))])
def test_a_model_without_linear_layers_is_refused(module):
    with pytest.raises(ConfigError, match="has no Linear or Conv1D layer"), adapted_model(module, AdapterConfig()):
        pass


def test_full_fine_tuning_of_a_model_without_weights_is_refused():
    with pytest.raises(ConfigError, match="no trainable parameter"), adapted_model(nn.Sequential(), AdapterConfig(method="full")):
        pass


def test_a_module_can_be_trained_in_full_beside_the_adapters(models):
    model = models["provenlm"]
    before = model.embed_tokens.weight.detach().clone()
    with adapted_model(model, AdapterConfig(trained_modules=("embed_tokens",))) as adapted:
        assert "embed_tokens.weight" in adapted.trainable
        model.embed_tokens.weight.data.add_(1.0)
    assert torch.equal(model.embed_tokens.weight, before)
    with pytest.raises(ConfigError, match="'task' matches no weights of GPTModel; its modules: embed_tokens"):
        inject_adapters(model, AdapterConfig(trained_modules=("task",)))


def test_a_long_list_of_layers_stays_on_one_line():
    layers = {f"part{chr(97 + i % 26)}{i // 26}.weight": nn.Linear(1, 1) for i in range(60)}
    assert list_layers(layers).endswith(" and 20 more")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rank": 0}, "rank: must be >= 1, got 0"),
        ({"alpha": 0}, "alpha: must be > 0, got 0"),
        ({"dropout": 1.0}, "dropout: must be >= 0 and < 1, got 1.0"),
        ({"target_modules": ()}, "target_modules: must be auto or a list of names, got ()"),
        ({"target_modules": "q_proj"}, "target_modules: must be auto or a list of names, got 'q_proj'"),
        ({"method": "full", "target_modules": ("q_proj",)}, "target_modules: must be auto"),
    ],
)
def test_a_wrong_setting_is_refused(fields, message):
    with pytest.raises(ValueError) as error:
        AdapterConfig(**fields)
    assert message in str(error.value)
