"""The mixture-of-experts decoder: its shape, its causality, and its equality with Hugging Face's Mixtral."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from provenlm.nets.moe.model import Decoder
from provenlm.nets.moe.net import FACE
from provenlm.nets.moe.objectives import loss
from provenlm.nets.moe.settings import Settings
from provenlm.training.objective import IGNORE, Batch

SMALL = Settings(
    hidden=32,
    layers=2,
    heads=4,
    kv_heads=2,
    experts=4,
    experts_per_token=2,
    expert_hidden=24,
    context=64,
    tied=True,
    rope_theta=10_000.0,
    norm_eps=1e-5,
    dropout=0.0,
    balance="layerwise",
    balance_weight=0.0,
    z_weight=0.0,
)
SEED_004 = replace(SMALL, hidden=512, layers=8, heads=8, experts=8, expert_hidden=2048)
FIRST_DRAFT = replace(SMALL, hidden=1024, layers=24, heads=16, kv_heads=4, experts=32, expert_hidden=4096)


def built(settings: Settings, vocabulary: int = 61) -> Decoder:
    """A net with no parameter left at zero."""
    torch.manual_seed(0)
    model = FACE.build(settings, vocabulary)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, 1.0 if parameter.ndim == 1 else 0.0, 0.2)
    return model


def tokens(rows: int = 2, length: int = 17, vocabulary: int = 61) -> Tensor:
    return torch.randint(0, vocabulary, (rows, length), generator=torch.Generator().manual_seed(5))


def counted(settings: Settings, vocabulary: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in FACE.build(settings, vocabulary).parameters())


@pytest.mark.parametrize(
    ("kv_heads", "n_experts", "tied", "layers"), [*itertools.product((1, 2, 4), (2, 5), (True, False), (1, 3))]
)
def test_the_closed_form_counts_what_is_built(kv_heads: int, n_experts: int, tied: bool, layers: int) -> None:
    settings = replace(SMALL, kv_heads=kv_heads, experts=n_experts, tied=tied, layers=layers)
    assert FACE.count(settings, 61)["total"] == counted(settings, 61)


def test_the_parts_of_the_count_are_those_of_the_built_net() -> None:
    parts = {
        "embedding": "embed_tokens",
        "attention": "self_attn",
        "experts": "experts",
        "router": "gate.",
        "norms": "norm",
        "head": "lm_head",
    }
    settings = replace(SMALL, tied=False)
    named = [(name, p.numel()) for name, p in FACE.build(settings, 61).named_parameters()]
    by_part = {part: sum(n for name, n in named if mark in name) for part, mark in parts.items()}
    count = FACE.count(settings, 61)
    assert by_part == {part: count[part] for part in parts}


def test_active_parameters_are_those_of_a_net_with_only_the_chosen_experts() -> None:
    chosen_only = counted(replace(SMALL, experts=2), 61)
    unused_router_rows = SMALL.layers * 2 * SMALL.hidden
    assert FACE.count(SMALL, 61)["active"] == chosen_only + unused_router_rows


def test_the_shape_of_seed_004_has_222_994_944_parameters_of_which_72_000_000_are_active() -> None:
    count = FACE.count(SEED_004, 32_000)
    assert (count["total"], count["active"]) == (222_994_944, 72_000_000)
    assert counted(SEED_004, 32_000) == 222_994_944


def test_its_first_draft_has_9_760_195_584_parameters() -> None:
    assert FACE.count(FIRST_DRAFT, 32_000)["total"] == 9_760_195_584
    assert counted(FIRST_DRAFT, 32_000) == 9_760_195_584


def test_a_later_token_does_not_move_an_earlier_logit() -> None:
    model, before = built(SMALL).eval(), tokens()
    after = before.clone()
    after[:, 9] = (after[:, 9] + 1) % 61
    moved = (FACE.logits(model, before) - FACE.logits(model, after)).abs().amax((0, 2))
    assert moved[:9].max() < 1e-5
    assert moved[9] > 1e-2


def test_a_new_net_begins_near_the_loss_of_guessing() -> None:
    torch.manual_seed(0)
    model, batch = FACE.build(SMALL, 61), Batch(tokens(), tokens(2, 17).roll(-1, 1))
    assert loss(model, IGNORE, batch)["cross_entropy"].item() == pytest.approx(math.log(61), abs=0.1)


def test_more_positions_than_the_context_are_refused() -> None:
    with pytest.raises(ValueError, match="context of 64"):
        FACE.logits(built(SMALL), tokens(1, 65))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden": 30}, "even number"),
        ({"kv_heads": 3}, "must divide heads, 4"),
        ({"experts_per_token": 5}, "there are 4 experts"),
        ({"dropout": 1.0}, "below 1"),
        ({"layers": 0}, "at least 1"),
    ],
)
def test_impossible_shapes_are_refused_with_what_would_be_right(change: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(SMALL, **change)


def test_every_parameter_has_exactly_one_role() -> None:
    model = FACE.build(replace(SMALL, tied=False), 61)
    (objective,) = FACE.objectives(model, IGNORE)
    by_role = [p for parameters in objective.parameters.values() for p in parameters]
    assert len(by_role) == len(set(by_role)) == len(list(model.parameters()))
    assert all(p.ndim >= 2 for p in objective.parameters["matrix"])
    assert {p.shape[0] for p in objective.parameters["embedding"]} == {61}


def test_the_minimised_loss_is_the_sum_of_its_weighted_terms() -> None:
    model, batch = built(replace(SMALL, balance_weight=0.5, z_weight=0.25)), Batch(tokens(), tokens().roll(-1, 1))
    terms = loss(model, IGNORE, batch)
    expected = terms["cross_entropy"] + 0.5 * terms["balance"] + 0.25 * terms["router_z"]
    assert terms["loss"].item() == pytest.approx(expected.item())


def test_ignored_targets_carry_no_loss() -> None:
    model, targets = built(SMALL), tokens().roll(-1, 1)
    kept = targets.clone()
    kept[:, 5:] = IGNORE
    assert loss(model, IGNORE, Batch(tokens(), kept))["cross_entropy"].item() == pytest.approx(
        loss(model, IGNORE, Batch(tokens()[:, :5], targets[:, :5]))["cross_entropy"].item(), rel=1e-5
    )


def test_the_probe_sees_a_collapsed_router() -> None:
    model = built(SMALL)
    with torch.no_grad():
        for block in model.layers:
            block.mlp.gate.weight.zero_()
    figures = FACE.probe(model, tokens())
    # equal probabilities: top-2 takes the same two of four experts for every token
    assert figures["load_max"][0] == 2.0
    assert figures["load_min"][0] == 0.0
    assert figures["dead_experts"][0] == 4
    assert figures["router_entropy"][0] == pytest.approx(1.0)


@pytest.mark.parametrize(("kv_heads", "n_experts", "k", "tied"), [(1, 4, 2, True), (2, 3, 1, False), (4, 5, 3, True)])
def test_mixtral_of_hugging_face_agrees_on_logits_loss_and_gradients(kv_heads: int, n_experts: int, k: int, tied: bool) -> None:
    transformers = pytest.importorskip("transformers")
    settings = replace(
        SMALL, kv_heads=kv_heads, experts=n_experts, experts_per_token=k, tied=tied, balance="joint", balance_weight=0.02
    )
    ours, ids = built(settings), tokens()
    theirs = transformers.MixtralForCausalLM._from_config(
        transformers.MixtralConfig(
            vocab_size=61,
            hidden_size=settings.hidden,
            intermediate_size=settings.expert_hidden,
            num_hidden_layers=settings.layers,
            num_attention_heads=settings.heads,
            num_key_value_heads=kv_heads,
            num_local_experts=n_experts,
            num_experts_per_tok=k,
            tie_word_embeddings=tied,
            rms_norm_eps=settings.norm_eps,
            max_position_embeddings=settings.context,
            rope_parameters={"rope_type": "default", "rope_theta": settings.rope_theta},
            output_router_logits=True,
            router_aux_loss_coef=settings.balance_weight,
            sliding_window=None,
        ),
        attn_implementation="sdpa",
    )
    renamed = {name if name.startswith("lm_head") else f"model.{name}": value for name, value in ours.state_dict().items()}
    missing, unexpected = theirs.load_state_dict(renamed, strict=False)
    assert not unexpected
    assert [name for name in missing if name != "lm_head.weight"] == []
    theirs.tie_weights()

    their = theirs(ids, labels=ids)
    our = loss(ours, IGNORE, Batch(ids[:, :-1], ids[:, 1:]))
    whole = loss(ours, IGNORE, Batch(ids, torch.cat((ids[:, 1:], torch.full((2, 1), IGNORE)), 1)))
    assert torch.allclose(FACE.logits(ours, ids), their.logits, atol=2e-5)
    assert our["cross_entropy"].item() == pytest.approx((their.loss - 0.02 * their.aux_loss).item(), rel=1e-5)
    assert whole["balance"].item() == pytest.approx(their.aux_loss.item(), rel=1e-5)
    assert whole["loss"].item() == pytest.approx(their.loss.item(), rel=1e-5)

    whole["loss"].backward()
    their.loss.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        other = gradients[name if name.startswith("lm_head") else f"model.{name}"]
        assert torch.allclose(parameter.grad, other, atol=1e-5 + 1e-4 * other.abs().max().item()), name
