"""Evaluate models of text on held-out documents.

Tasks: close brackets, choose continuations.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from provenlm.core import rng
from provenlm.core.audit import Check, MetricRecorder
from provenlm.evaluation.confidence import record_proportion
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec
from provenlm.evaluation.token_loss import sequence_losses

CLOSING_BRACKETS = {"(": ")", "[": "]", "{": "}"}


@dataclass(frozen=True)
class TextEvalConfig:
    """Configure the evaluation tasks of a recipe on text."""

    num_bracket_cases: int = 50  # cases of each type of bracket
    bracket_context_chars: int = 160  # characters of text before the bracket
    num_pairs: int = 100  # pairs of passages whose continuations are swapped
    context_tokens: int = 64
    continuation_tokens: int = 32
    tokens_per_batch: int = 2048

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if value < 1:
                raise ValueError(f"{key} must be >= 1, got {value}")


def make_probes(config: TextEvalConfig) -> Mapping[str, Probe]:
    """Return the tasks `brackets` and `continuation_choice`."""
    unclosed = "brackets are closed no better than by guessing: train longer"
    unused_context = "the model does not use its context: train longer or with longer sequences"
    return {
        "brackets": Probe(
            lambda context, metrics: bracket_task(config, context, metrics),
            frozenset({"next_token_logits", "validation_split", "closing_brackets"}),
            {"accuracy.ci_low": Check("> accuracy.chance", unclosed)},
        ),
        "continuation_choice": Probe(
            lambda context, metrics: continuation_choice_task(config, context, metrics),
            frozenset({"next_token_logits", "validation_split", "passage_pairs"}),
            {"accuracy.ci_low": Check("> accuracy.chance", unused_context)},
        ),
    }


def find_conditions(config: TextEvalConfig, context: EvalContext) -> Mapping[str, str | None]:
    """Return for each condition of the tasks why it is not met.

    None if the validation split meets it.
    """
    unseen = set(CLOSING_BRACKETS.values())
    for text in _decode_documents(context):
        if not unseen:
            break
        unseen -= {close for _, close in find_closing_brackets(text, config.bracket_context_chars)}
    no_pairs = f"fewer than two validation documents have {config.context_tokens + config.continuation_tokens} tokens"
    return {
        "closing_brackets": f"the validation split has no closing bracket {min(unseen)}" if unseen else None,
        "passage_pairs": None if _draw_passages(config, context) else no_pairs,
    }


def bracket_task(config: TextEvalConfig, context: EvalContext, metrics: MetricRecorder) -> None:
    """Test whether the correct closing bracket is the most probable one.

    The context is held-out text that contains the opening bracket.

    There are equally many cases of each type, so that always choosing the most common bracket is no better than chance (minimal pairs
    as in Warstadt et al. 2020, arXiv 1912.00582).
    """
    cases_by_bracket: dict[str, list[list[list[int]]]] = {close: [] for close in CLOSING_BRACKETS.values()}
    for text in _decode_documents(context):
        for prefix, close in find_closing_brackets(text, config.bracket_context_chars):
            sequences = [context.tokenizer.encode_prompt(prefix + choice) for choice in cases_by_bracket]
            if max(map(len, sequences)) <= context.max_seq_len + 1:
                cases_by_bracket[close].append(sequences)
    cases_per_type = min(config.num_bracket_cases, *map(len, cases_by_bracket.values()))
    metrics.add_count("cases_per_type", cases_per_type, "cases", "Closing brackets of each type that are tested in held-out text")
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
        "accuracy",
        num_correct,
        len(nats),
        1.0,
        1 / len(cases_by_bracket),
        "Closing brackets in held-out text for which the correct type is the most probable one",
    )


def find_closing_brackets(text: str, max_chars: int) -> Iterator[tuple[str, str]]:
    """Yield (text before, bracket) for each matching closing bracket.

    It must close the innermost open bracket within the last `max_chars` characters.
    """
    open_brackets: list[tuple[int, str]] = []
    for position, character in enumerate(text):
        if character in CLOSING_BRACKETS:
            open_brackets.append((position, CLOSING_BRACKETS[character]))
        elif character in CLOSING_BRACKETS.values():
            if open_brackets and open_brackets[-1][1] == character and open_brackets[-1][0] >= position - max_chars:
                yield text[max(0, position - max_chars) : position], character
            open_brackets = open_brackets[:-1] if open_brackets and open_brackets[-1][1] == character else []


def continuation_choice_task(config: TextEvalConfig, context: EvalContext, metrics: MetricRecorder) -> None:
    """Test whether passages fit their own continuations best.

    Each of two held-out passages is compared with the continuation of the other.

    Losses are summed over both, so the probability of a continuation by itself cancels: a model that ignores its context is at chance.
    """
    passages = _draw_passages(config, context)
    metrics.add_count(
        "num_passages", len(passages), "passages", "Held-out passages, paired so that the two of a pair are of different documents"
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
        "accuracy",
        num_correct,
        len(pairs),
        1.0,
        0.5,
        "Pairs of held-out passages for which the loss of their own continuations is lower than that of swapped ones",
    )
    gain = float(margin.mean()) / (2 * config.continuation_tokens)
    metrics.add_measurement(
        "loss_gain", gain, "nats/token", "Mean loss of a continuation after a foreign passage minus its loss after its own passage"
    )


def _draw_passages(config: TextEvalConfig, context: EvalContext) -> list[NDArray[np.int64]]:
    """Draw passages so that the two of each pair are of different documents."""
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


SPEC = ValidateSpec(TextEvalConfig, make_probes, find_conditions)
