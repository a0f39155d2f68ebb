"""A net in; out, how far what must give the same logits is apart: the reference, a cache, the loop over experts.

B rows, T positions, N tokens.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from provenlm.core.audit import Recorder
from provenlm.evaluation.probe import Probe, Subject
from provenlm.evaluation.probes.hf_reference import counterpart
from provenlm.evaluation.token_loss import stretches
from provenlm.models.common.layers.kv_cache import Cache
from provenlm.models.common.layers.moe_experts import Experts, by_loop

INAPPLICABLE = "not applicable"


def probes(tokens: int) -> Mapping[str, Probe]:
    """`tokens` of documents are looked at, by each."""
    return {
        "equivalence.reference": lambda subject, figures: reference(subject, figures, tokens),
        "equivalence.cache": lambda subject, figures: cache(subject, figures, tokens),
        "equivalence.experts": lambda subject, figures: experts(subject, figures, tokens),
    }


@torch.inference_mode()
def reference(subject: Subject, figures: Recorder, tokens: int) -> None:
    """Our weights in Hugging Face's own code give our logits."""
    other = counterpart(subject)
    if isinstance(other, str):
        figures.counted("largest_difference", INAPPLICABLE, "logits", other)
        return
    rows_BT = stretches(subject, tokens)[:, :-1]
    ours_BTV, theirs_BTV = subject.logits(subject.model, rows_BT).float(), other.logits(rows_BT).float()
    meaning = f"largest difference of a logit from that of {other.name} of transformers with the same weights, on documents"
    figures.counted(
        "tokens", rows_BT.numel(), "tokens", "tokens of documents whose logits were compared, the whole vocabulary each"
    )
    figures.measured("largest_difference", _apart(ours_BTV, theirs_BTV), "logits", meaning)
    same = float((ours_BTV.argmax(-1) == theirs_BTV.argmax(-1)).float().mean())
    figures.measured("same_choice", same, "share", "of these, those with the same most probable next token")


@torch.inference_mode()
def cache(subject: Subject, figures: Recorder, tokens: int) -> None:
    """A row read half at once and then token by token, keys and values kept, gives the logits of the row read whole."""
    if subject.continued is None:
        figures.counted("largest_difference", INAPPLICABLE, "logits", "the net keeps no keys and values")
        return
    row_BT = stretches(subject, min(tokens, subject.length))[:1, :-1]
    whole_BTV = subject.logits(subject.model, row_BT).float()
    length = row_BT.shape[1]
    kept, read = Cache(length), 0
    pieces = []
    for size in (length - length // 2, *[1] * (length // 2)):
        kept.place(torch.arange(read, read + size, device=subject.device)[None])
        pieces.append(subject.continued(subject.model, row_BT[:, read : read + size], kept).float())
        read += size
    figures.counted("positions", length, "positions", "of a document's row, the second half of them read one by one")
    meaning = "largest difference of a logit with keys and values kept from the same without"
    figures.measured("largest_difference", _apart(torch.cat(pieces, 1), whole_BTV), "logits", meaning)


@torch.inference_mode()
def experts(subject: Subject, figures: Recorder, tokens: int) -> None:
    """What the experts say by the fast way that training uses, beside the definition, a loop over experts."""
    largest, found = 0.0, [module for module in subject.model.modules() if isinstance(module, Experts)]
    if not found:
        figures.counted("largest_difference", INAPPLICABLE, "ratio", "the net has no experts")
        return

    def look(module: nn.Module, given: tuple[Any, ...], said_ND: Tensor) -> None:
        nonlocal largest
        assert isinstance(module, Experts)
        states_ND, chosen_NK, weights_NK = given
        defined_ND = by_loop(states_ND, chosen_NK, weights_NK, module.gate_up_proj, module.down_proj)
        largest = max(largest, _apart(said_ND, defined_ND) / float(defined_ND.abs().max().clamp_min(1e-30)))

    handles = [module.register_forward_hook(look) for module in found]
    try:
        subject.logits(subject.model, stretches(subject, tokens)[:, :-1])
    finally:
        for handle in handles:
            handle.remove()
    figures.counted("layers", len(found), "layers", "layers of experts that were looked at, on documents")
    meaning = "largest difference of what experts say by the fast way from the loop over experts, over the largest value"
    figures.measured("largest_difference", largest, "ratio", meaning)


def _apart(one: Tensor, other: Tensor) -> float:
    return float((one - other).abs().max())
