"""What a net that learned text is asked about held-out documents: to close brackets, and to tell what goes on from what does not."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.audit import MetricRecorder
from provenlm.evaluation.confidence import record_proportion
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec
from provenlm.evaluation.token_loss import sequence_losses

CLOSING_BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class TextEvalConfig:
    """The `probes` section of a recipe on text, typed."""

    num_bracket_cases: int  # of each kind of bracket
    bracket_context_chars: int  # of text before the bracket
    num_pairs: int  # of passages whose continuations are swapped
    context_tokens: int
    continuation_tokens: int
    tokens_per_batch: int

    def __post_init__(self) -> None:
        if min(vars(self).values()) < 1:
            raise ValueError("every number must be at least 1")


def make_probes(config: TextEvalConfig) -> Mapping[str, Probe]:
    return {
        "brackets": lambda subject, metrics: bracket_task(config, subject, metrics),
        "context": lambda subject, metrics: continuation_choice_task(config, subject, metrics),
    }


def bracket_task(config: TextEvalConfig, context: EvalContext, metrics: MetricRecorder) -> None:
    """Held-out text up to a closing bracket whose opening one is in sight: the right bracket must be the likeliest of the kinds.

    As many cases of each kind, so that always naming the commonest is no better than chance (minimal pairs as in Warstadt et al.
    2020, arXiv 1912.00582).
    """
    cases_by_bracket: dict[str, list[list[list[int]]]] = {close: [] for close in CLOSING_BRACKETS.values()}
    for text in _decode_documents(context):
        for prefix, close in find_closing_brackets(text, config.bracket_context_chars):
            sequences = [context.tokenizer.encode_prompt(prefix + choice) for choice in cases_by_bracket]
            if max(map(len, sequences)) <= context.max_seq_len + 1:
                cases_by_bracket[close].append(sequences)
    cases_per_type = min(config.num_bracket_cases, *map(len, cases_by_bracket.values()))
    metrics.add_count("each", cases_per_type, "cases", "cases of each kind of bracket in held-out text")
    if not cases_per_type:
        return
    generator = rng.make_rng(context.seed, "brackets")
    sequences = [
        sequence
        for cases in cases_by_bracket.values()
        for n in generator.permutation(len(cases))[:cases_per_type]
        for sequence in cases[int(n)]
    ]
    losses = sequence_losses(context, sequences, config.tokens_per_batch, "brackets")
    nats = losses.sum_by_document(losses.nats, len(sequences)).reshape(-1, len(cases_by_bracket))
    num_correct = int((nats.argmin(1) == np.arange(len(nats)) // cases_per_type).sum())
    record_proportion(
        metrics,
        "right",
        num_correct,
        len(nats),
        1.0,
        1 / len(cases_by_bracket),
        "closing brackets of the kind that was opened last",
    )


def find_closing_brackets(text: str, max_chars: int) -> Iterator[tuple[str, str]]:
    """Each closing bracket that closes the innermost open one within the last `characters`: (what stands before it, the bracket)."""
    open_brackets: list[tuple[int, str]] = []
    for position, character in enumerate(text):
        if character in CLOSING_BRACKETS:
            open_brackets.append((position, CLOSING_BRACKETS[character]))
        elif character in CLOSING_BRACKETS.values():
            if open_brackets and open_brackets[-1][1] == character and open_brackets[-1][0] >= position - max_chars:
                yield text[max(0, position - max_chars) : position], character
            open_brackets = open_brackets[:-1] if open_brackets and open_brackets[-1][1] == character else []


def continuation_choice_task(config: TextEvalConfig, context: EvalContext, metrics: MetricRecorder) -> None:
    """Two passages of two held-out documents: each one's own continuation must suit it better than the other's does.

    Summed over both, so how probable a continuation is by itself cancels, and a net that ignores its context does not win.
    """
    passages = _draw_passages(config, context)
    metrics.add_count(
        "passages", len(passages), "passages", "held-out passages that were drawn, each of another document than its partner's"
    )
    pairs = list(zip(passages[::2], passages[1::2], strict=False))
    if not pairs:
        return
    size = config.context_tokens
    sequences = [
        np.concatenate([a[:size], b[size:]]).tolist() for first, second in pairs for a in (first, second) for b in (first, second)
    ]
    losses = sequence_losses(context, sequences, config.tokens_per_batch, "context")
    is_scored = losses.window_position >= size - 1
    nats = np.bincount(losses.document[is_scored], weights=losses.nats[is_scored], minlength=len(sequences)).reshape(-1, 2, 2)
    margin = nats[:, 0, 1] + nats[:, 1, 0] - nats[:, 0, 0] - nats[:, 1, 1]
    num_correct = int((margin > 0).sum())
    record_proportion(
        metrics,
        "right",
        num_correct,
        len(pairs),
        1.0,
        0.5,
        "pairs of passages with the better sum of losses for their own continuations",
    )
    gain = float(margin.mean()) / (2 * config.continuation_tokens)
    metrics.add_measurement(
        "gain", gain, "nats/token", "loss of a continuation after a foreign passage minus its loss after its own"
    )


def _draw_passages(config: TextEvalConfig, context: EvalContext) -> list[NDArray[np.int64]]:
    """Passages in an order in which neighbours are of different documents."""
    split, size = context.tokens.val, config.context_tokens + config.continuation_tokens
    long_documents = np.flatnonzero(np.diff(split.doc_offsets) >= size)
    if len(long_documents) < 2:
        return []
    generator = rng.make_rng(context.seed, "context")
    documents = np.concatenate(
        [generator.permutation(long_documents) for _ in range(4 * config.num_pairs // len(long_documents) + 2)]
    )
    passages: list[NDArray[np.int64]] = []
    for first_document, second_document in zip(documents[::2], documents[1::2], strict=False):
        if first_document == second_document or len(passages) >= 2 * config.num_pairs:
            continue
        for document in (first_document, second_document):
            start = int(generator.integers(split.doc_offsets[document], split.doc_offsets[document + 1] - size + 1))
            passages.append(np.asarray(split.ids[start : start + size]).astype(np.int64))
    return passages


def _decode_documents(context: EvalContext) -> Iterator[str]:
    split = context.tokens.val
    for start, end in zip(split.doc_offsets[:-1], split.doc_offsets[1:], strict=True):
        yield context.tokenizer.decode(split.ids[start:end].tolist()).decode("utf-8", "replace")


SPEC = ValidateSpec(TextEvalConfig, make_probes)
