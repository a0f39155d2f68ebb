"""A net with attention in; pictures of who looks at whom, and figures on heads that copy and that go on from repetitions, out.

The weights are worked out anew from the queries and keys that each layer really had; `apart` says how far what they would give is
from what the layer gave, so that the pictures are of this net and not of a formula.

Shapes: B rows, T positions, S positions looked at, N heads, L length of what is repeated, K tokens, D hidden, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from provenlm.core import rng
from provenlm.core.audit import Recorder, Series, Table
from provenlm.evaluation.confidence import record_share
from provenlm.evaluation.probe import Probe, Subject
from provenlm.models.common.layers import rotary
from provenlm.models.common.layers.attention import Attention
from provenlm.models.common.layers.decoder import Decoder

ROWS, REPEATED = 16, 32
SHOWN = 16  # tokens of a prompt in a picture
SAMPLED = 128  # tokens whose copying is looked at
INAPPLICABLE = "not applicable"


@dataclass(frozen=True)
class Looked:
    """One layer on one batch: `weights_BNTS`, and how far their mixture is from what the layer gave, over its largest value."""

    weights_BNTS: Tensor
    apart: float


def attention(prompts: Sequence[str]) -> Probe:
    """Pictures on `prompts` and on tokens that are repeated; heads are scored on the latter."""

    def probe(subject: Subject, figures: Recorder) -> None:
        if not any(isinstance(module, Attention) for module in subject.model.modules()):
            figures.counted("apart", INAPPLICABLE, "ratio", "the net has no layers of attention")
            return
        rows_BT, length = _repeated(subject)
        found, logits_BTV = looks(subject, rows_BT)
        meaning = "largest difference of what a layer gave from what its weights, worked out anew, would have given, over its largest value"
        figures.measured("apart", max(layer.apart for layer in found), "ratio", meaning)
        _heads(figures, subject, found, length)
        _continued(figures, subject, rows_BT, logits_BTV, length)
        for number, text in enumerate(prompts, 1):
            ids = subject.codec.prompt(text)[:SHOWN]
            if len(ids) > 1:
                row_BT = torch.tensor([ids], device=subject.device)
                shown = f"the prompt {subject.codec.decode(ids).decode('utf-8', 'replace')!r}"
                figures.series.append(picture(f"prompt_{number}", looks(subject, row_BT)[0], shown))
        short = min(length, SHOWN // 2)
        row_BT = torch.cat([rows_BT[:1, :short], rows_BT[:1, :short]], 1)
        figures.series.append(picture("repeated", looks(subject, row_BT)[0], f"{short} random tokens, twice"))

    return probe


@torch.inference_mode()
def looks(subject: Subject, tokens_BT: Tensor) -> tuple[list[Looked], Tensor]:
    """Each layer of attention, in order, on `tokens_BT`; and the net's logits_BTV."""
    found: list[Looked] = []

    def look(module: nn.Module, given: tuple[Any, ...], said_BTD: Tensor) -> None:
        assert isinstance(module, Attention)
        found.append(_looked(module, given[0], given[1], said_BTD))

    layers = [module for module in subject.model.modules() if isinstance(module, Attention)]
    handles = [layer.register_forward_hook(look) for layer in layers]
    try:
        logits_BTV = subject.logits(subject.model, tokens_BT)
    finally:
        for handle in handles:
            handle.remove()
    return found, logits_BTV.float()


def _looked(layer: Attention, hidden_BTD: Tensor, angles: rotary.Angles | None, said_BTD: Tensor) -> Looked:
    """By the definition: softmax of queries times keys over what came before."""
    batch, length, _ = hidden_BTD.shape
    query_BNTH, key_BNTH, value_BNTH = (
        projection(hidden_BTD).view(batch, length, -1, layer.head).transpose(1, 2)
        for projection in (layer.q_proj, layer.k_proj, layer.v_proj)
    )
    if angles is not None:
        query_BNTH, key_BNTH = rotary.rotate(query_BNTH, angles), rotary.rotate(key_BNTH, angles)
    shared = query_BNTH.shape[1] // key_BNTH.shape[1]
    key_BNTH, value_BNTH = (each.repeat_interleave(shared, 1) for each in (key_BNTH, value_BNTH))
    scores_BNTS = query_BNTH @ key_BNTH.transpose(-1, -2) / layer.head**0.5
    later_TS = torch.ones(length, length, dtype=torch.bool, device=hidden_BTD.device).triu(1)
    weights_BNTS = scores_BNTS.masked_fill(later_TS, float("-inf")).softmax(-1)
    mixed_BTD = layer.o_proj((weights_BNTS @ value_BNTH).transpose(1, 2).flatten(2))
    largest = float(said_BTD.abs().max().clamp_min(1e-30))
    return Looked(weights_BNTS.float(), float((mixed_BTD - said_BTD).abs().max()) / largest)


def picture(name: str, found: Sequence[Looked], on: str) -> Series:
    """A map of the first row of each head; its row t says how much token t looks at each."""
    size = found[0].weights_BNTS.shape[-1]
    lines = {
        f"layer {layer}, head {head}": [round(value, 2) for value in weights_TS.flatten().tolist()]
        for layer, looked in enumerate(found)
        for head, weights_TS in enumerate(looked.weights_BNTS[0])
    }
    meaning = f"who looks at whom, by layer and head, on {on}"
    return Series(name, "maps", meaning, "token looked at", "token", [float(n) for n in range(size)], lines)


def _repeated(subject: Subject) -> tuple[Tensor, int]:
    """(rows_BT of different random tokens, twice; how many). ValueError if rows are too short to repeat two tokens."""
    usual = sorted(set(range(subject.tokens.vocabulary)) - set(subject.tokens.special.values()))
    length = min(subject.length // 2, REPEATED, len(usual))
    if length < 2:
        raise ValueError("rows of fewer than four tokens repeat nothing")
    generator = torch.Generator().manual_seed(rng.seed_of(subject.seed, "repeated"))
    rows = torch.stack([torch.tensor(usual)[torch.randperm(len(usual), generator=generator)[:length]] for _ in range(ROWS)])
    return torch.cat([rows, rows], 1).to(subject.device), length


def scores(weights_BNTS: Tensor, length: int) -> dict[str, Tensor]:
    """For each head (N,): mean weight, in the second half of repeated rows, on the token before, on the same token's first place, and
    on the one that followed it there (an induction head: Olsson et al. 2022, arXiv 2209.11895)."""
    places = torch.arange(length, 2 * length - 1, device=weights_BNTS.device)
    wanted = {"previous": places - 1, "same": places - length, "induction": places - length + 1}
    return {name: weights_BNTS[:, :, places, there].mean((0, 2)) for name, there in wanted.items()}


def _heads(figures: Recorder, subject: Subject, found: Sequence[Looked], length: int) -> None:
    by_layer = [scores(layer.weights_BNTS, length) for layer in found]
    chance = float((1 / torch.arange(length + 1, 2 * length, dtype=torch.float64)).mean())
    words = {
        "previous": "on the token before",
        "same": "on the first place of the same token",
        "induction": "on the token that followed the same token before",
    }
    copying = _copying(subject)
    rows = []
    for layer, named in enumerate(by_layer):
        for head in range(found[layer].weights_BNTS.shape[1]):
            own = [round(float(named[name][head]), 4) for name in words]
            rows.append((layer, head, *own, round(float(copying[layer][head]), 4) if copying else INAPPLICABLE))
    for column, (name, where) in enumerate(words.items(), 2):
        best = max(rows, key=lambda row: row[column])
        meaning = f"largest mean weight of a head {where}, on repeated random tokens: layer {best[0]}, head {best[1]}"
        figures.measured(f"{name}.largest", best[column], "share", meaning)
    figures.counted("chance", chance, "share", "mean weight on any one token of a head that looks at all that came before alike")
    if copying:
        best = max(rows, key=lambda row: row[5])
        meaning = (
            "largest copying score of a head: mean share of the vocabulary whose logits a token raises less than its own, through the "
            f"head's values and the net's head alone; half is chance: layer {best[0]}, head {best[1]}"
        )
        figures.measured("copying.largest", best[5], "share", meaning)
    columns = ("layer", "head", "previous", "same", "induction", "copying")
    figures.tables.append(Table("heads", "each head on repeated random tokens, and how far it copies", columns, rows))


@torch.inference_mode()
def _copying(subject: Subject) -> list[Tensor]:
    """For each layer the copying score of each head, (N,); empty for a net whose parts we do not know."""
    model = subject.model
    if not isinstance(model, Decoder):
        return []
    generator = torch.Generator().manual_seed(rng.seed_of(subject.seed, "copying"))
    ids_K = torch.randperm(subject.tokens.vocabulary, generator=generator)[:SAMPLED].to(subject.device)
    return [copying(block.self_attn, block.input_layernorm(model.embed_tokens(ids_K)), model.head, ids_K) for block in model.layers]  # type: ignore[operator,arg-type]


def copying(layer: Attention, states_KD: Tensor, head_VD: Tensor, ids_K: Tensor) -> Tensor:
    """For each head (N,): over tokens `ids_K` with `states_KD`, mean share of other tokens whose logit the head raises less."""
    heads = layer.q_proj.out_features // layer.head
    value_KNH = layer.v_proj(states_KD).view(len(ids_K), -1, layer.head)
    value_KNH = value_KNH.repeat_interleave(heads // value_KNH.shape[1], 1)
    out_DNH = layer.o_proj.weight.view(-1, heads, layer.head)
    shares = []
    for n in range(heads):
        logits_KV = F.linear(value_KNH[:, n] @ out_DNH[:, n].T, head_VD)
        own_K1 = logits_KV.gather(1, ids_K[:, None])
        shares.append(((logits_KV < own_K1).sum(1) / (logits_KV.shape[1] - 1)).mean())
    return torch.stack(shares)


def _continued(figures: Recorder, subject: Subject, rows_BT: Tensor, logits_BTV: Tensor, length: int) -> None:
    """How the net as a whole goes on from a repetition."""
    targets_BT = rows_BT[:, 1:]
    nats_BT = F.cross_entropy(logits_BTV[:, :-1].transpose(1, 2), targets_BT, reduction="none")
    first, second = nats_BT[:, : length - 1], nats_BT[:, length:]
    meaning = "loss on random tokens the first time minus their loss the second time: what the net takes from the repetition"
    figures.measured("repeated.gain", float(first.mean() - second.mean()), "nats/token", meaning)
    right = logits_BTV[:, length:-1].argmax(-1) == targets_BT[:, length:]
    meaning = "repeated random tokens that are the most probable next ones the second time"
    record_share(figures, "repeated.right", int(right.sum()), right.numel(), 1.0, 1 / subject.tokens.vocabulary, meaning)
