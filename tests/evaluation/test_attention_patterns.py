"""Pictures of attention are of the net itself, and heads made by hand get the scores that they were made for."""

import pytest
import torch
from torch import nn

from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.probes.attention_patterns import attention_probe, capture_attention, copying_scores, head_scores
from provenlm.evaluation.probes.gradcheck import randomize_weights
from provenlm.evaluation.probes.gradcheck_ops import tiny_decoder
from provenlm.models.common.layers.attention import Attention
from provenlm.models.gpt.config import GPTConfig
from provenlm.models.gpt.spec import SPEC

LLAMA = GPTConfig("llama", 16, 2, 4, 2, 24, 64, True, 10_000.0, 1e-5, 0.0)


@pytest.fixture
def context(factory, corpus):
    torch.manual_seed(0)
    model = randomize_weights(SPEC.build(LLAMA, 29)).eval()
    return factory.context(model, corpus, logits=SPEC.logits)


def record(context, prompts=("ABCD", "")):
    recorder = MetricRecorder()
    attention_probe(prompts).run(context, recorder)
    return recorder


def test_recomputed_attention_equals_the_output_of_the_layers(context):
    assert record(context).metrics["recompute_max_diff"].value < 1e-5


def test_recomputed_attention_with_learned_positions_equals_the_output(factory, corpus):
    torch.manual_seed(0)
    model = randomize_weights(tiny_decoder("gpt2", 29, 64)).eval()
    assert record(factory.context(model, corpus)).metrics["recompute_max_diff"].value < 1e-5


@pytest.mark.parametrize("fault", ["later", "scale"])
def test_a_layer_that_does_not_attend_as_plotted_is_caught(context, fault):
    """`later`: the layer attends to later tokens. `scale`: its queries are not divided by the root of their length."""

    class FaultyAttention(Attention):
        def forward(self, hidden_BTD, *rest):
            if fault == "later":
                return super().forward(hidden_BTD.flip(1), *rest).flip(1)
            self.q_proj.weight.data.mul_(2)
            output = super().forward(hidden_BTD, *rest)
            self.q_proj.weight.data.div_(2)
            return output

    context.model.layers[1].self_attn.__class__ = FaultyAttention
    assert record(context).metrics["recompute_max_diff"].value > 1e-2


def test_a_heatmap_has_a_square_per_head_whose_rows_sum_to_one(context):
    series = {s.name: s for s in record(context).series}
    assert set(series) == {"prompt_1", "repeated"}  # one token looks at nothing
    maps = series["prompt_1"].y_values
    assert list(maps)[:2] == ["layer 0, head 0", "layer 0, head 1"] and len(maps) == 8
    rows = torch.tensor(maps["layer 1, head 3"]).view(5, 5)
    assert rows.sum(1).tolist() == pytest.approx([1] * 5, abs=0.03)
    assert rows.triu(1).sum() == 0
    assert "'ABCD'" in series["prompt_1"].description


@pytest.mark.parametrize("name", ["previous", "same", "induction"])
def test_a_head_that_attends_to_one_position_gets_only_its_score(name):
    length = 5
    distance = {"previous": 1, "same": length, "induction": length - 1}[name]
    weights = torch.zeros(3, 2, 2 * length, 2 * length)
    for position in range(2 * length):
        weights[:, 1, position, max(0, position - distance)] = 1
    scores_by_name = {score: value.tolist() for score, value in head_scores(weights, length).items()}
    assert scores_by_name.pop(name) == [0, 1]
    assert all(value == [0, 0] for value in scores_by_name.values())


def test_a_head_that_attends_uniformly_is_at_chance(context):
    weights = torch.ones(1, 1, 32, 32).tril()
    weights = weights / weights.sum(-1, keepdim=True)
    chance = sum(1 / (t + 1) for t in range(16, 31)) / 15
    assert float(head_scores(weights, 16)["induction"]) == pytest.approx(chance, rel=1e-5)
    uniform_weight = record(context).metrics["uniform_attention_weight"].value  # rows of 16 are 8 tokens, twice
    assert uniform_weight == pytest.approx(sum(1 / (t + 1) for t in range(8, 15)) / 7, rel=1e-6)


@pytest.mark.parametrize(("sign", "expected"), [(1, 1.0), (-1, 0.0)])
def test_an_identity_head_copies_and_a_negated_one_does_not(sign, expected):
    layer = Attention(8, 2, 2, 0.0, bias=False)
    nn.init.eye_(layer.v_proj.weight)
    layer.o_proj.weight.data = sign * torch.eye(8)
    tokens = torch.zeros(4, 8)
    tokens[:, :4] = torch.eye(4)  # head 0 carries them, head 1 nothing
    scores_by_name = copying_scores(layer, tokens, tokens, torch.arange(4))
    assert scores_by_name[0] == expected


def test_a_model_that_repeats_its_context_has_an_in_context_gain(factory, corpus, context):
    """The model finds the earlier occurrence of a token and predicts what followed it."""

    def recall_logits(model, tokens_BT):
        output = torch.zeros(*tokens_BT.shape, 29)
        for b, row in enumerate(tokens_BT.tolist()):
            for t, token in enumerate(row):
                if token in row[:t]:
                    output[b, t, row[row.index(token) + 1]] = 20
        context.model(tokens_BT)
        return output

    metrics = record(factory.context(context.model, corpus, logits=recall_logits)).metrics
    assert metrics["in_context.repeat_accuracy"].value == 1
    assert metrics["in_context.repeat_gain"].value > 3
    assert record(context).metrics["in_context.repeat_accuracy"].value < 0.3
    assert metrics["in_context.repeat_accuracy.chance"].value == pytest.approx(1 / 29)


def test_no_forward_hook_remains(context):
    capture_attention(context, torch.zeros(1, 4, dtype=torch.int64))
    assert not any(module._forward_hooks for module in context.model.modules())
