"""What a net that learned strings is asked: to complete those of training, those held out, and fixed prompts, beside what is attainable."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.errors import ProvenlmError
from provenlm.data.token_dataset import DatasetSplit
from provenlm.evaluation.ceilings import prefix_upper_bound
from provenlm.evaluation.confidence import ratio_interval, record_accuracy
from provenlm.evaluation.generate import generate
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec
from provenlm.evaluation.token_loss import TokenLosses, sequence_losses
from provenlm.models.generation.sampling import GREEDY


@dataclass(frozen=True)
class StringsEvalConfig:
    """The `probes` section of a recipe on strings, typed."""

    prompt_chars: tuple[int, ...]  # of each training string; each is measured for itself
    fixed_prompts: tuple[str, ...]  # beginnings of training strings, each to be completed to one of them
    tokens_per_batch: int

    def __post_init__(self) -> None:
        if not self.prompt_chars or min(self.prompt_chars) < 1 or self.tokens_per_batch < 1:
            raise ValueError("prompt_characters must name at least one length, none below 1, and batch_tokens be at least 1")


@dataclass(frozen=True)
class CompletionSet:
    """Strings as ids, and for each how many of its first ids are the prompt."""

    sequences: Sequence[Sequence[int]]
    prompt_lengths: Sequence[int]

    def prompts(self) -> list[list[int]]:
        return [list(sequence[:n]) for sequence, n in zip(self.sequences, self.prompt_lengths, strict=True)]

    def continuations(self) -> list[list[int]]:
        return [list(sequence[n:]) for sequence, n in zip(self.sequences, self.prompt_lengths, strict=True)]


def make_probes(config: StringsEvalConfig) -> Mapping[str, Probe]:
    """`recall` of what was trained on; `completion` of what was not; `demos`."""

    def train_completion(context: EvalContext, metrics: MetricRecorder) -> None:
        sequences = _split_sequences(context.tokens.train)
        metrics.add_count("strings", len(sequences), "strings", "training strings, each to be completed from its first characters")
        losses = sequence_losses(context, sequences, config.tokens_per_batch, "recall")
        for num_chars in config.prompt_chars:
            completions = CompletionSet(sequences, [_prompt_length(context, sequence, num_chars) for sequence in sequences])
            with metrics.scope(f"from_{num_chars}") as scoped:
                _record_completions(scoped, context, completions, losses)
                _record_token_metrics(scoped, context, completions, losses)

    def val_completion(context: EvalContext, metrics: MetricRecorder) -> None:
        sequences = _split_sequences(context.tokens.val)
        metrics.add_count("strings", len(sequences), "strings", "held-out strings, none of which was trained on")
        if not sequences:
            return  # nothing was held out: no figure claims to be about it
        losses = sequence_losses(context, sequences, config.tokens_per_batch, "completion")
        completions = CompletionSet(sequences, [(len(sequence) + 1) // 2 for sequence in sequences])
        with metrics.scope("from_half") as scoped:
            _record_completions(scoped, context, completions, losses)
            _record_token_metrics(scoped, context, completions, losses)
        _record_line_metrics(metrics, context, sequences, losses)

    def fixed_prompts(context: EvalContext, metrics: MetricRecorder) -> None:
        _record_fixed_prompts(metrics, context, config.fixed_prompts)

    return {"recall": train_completion, "completion": val_completion, **({"demos": fixed_prompts} if config.fixed_prompts else {})}


def _split_sequences(split: DatasetSplit) -> list[list[int]]:
    return [split.ids[start:end].tolist() for start, end in zip(split.doc_offsets[:-1], split.doc_offsets[1:], strict=True)]


def _prompt_length(context: EvalContext, sequence: Sequence[int], num_chars: int) -> int:
    """How many ids the prompt of `row` has. ValueError if a prompt is not the beginning of its string."""
    prompt = context.tokenizer.encode_prompt(context.tokenizer.decode(sequence).decode()[:num_chars])
    if list(sequence[: len(prompt)]) != prompt or len(prompt) >= len(sequence):
        raise ValueError(f"the ids of the first {num_chars} characters are not the first ids of the string")
    return len(prompt)


def _record_completions(metrics: MetricRecorder, context: EvalContext, completions: CompletionSet, losses: TokenLosses) -> None:
    """Greedy completion, right only if it is the rest of the string to its end."""
    prompts, continuations = completions.prompts(), completions.continuations()
    generated = generate(context, prompts, GREEDY, max(map(len, continuations)), torch.Generator())
    is_correct = [
        output[: len(continuation)] == continuation for output, continuation in zip(generated, continuations, strict=True)
    ]
    max_correct = max_completable(prompts, continuations)
    expected_correct = sum(float(context.tokens.vocab_size) ** -len(continuation) for continuation in continuations)
    metrics.add_measurement("right", sum(is_correct), "strings", "strings completed to the last token by greedy generation")
    description = "strings that can be completed at most: equal prompts have one completion"
    metrics.add_count("right.ceiling", max_correct, "strings", description)
    metrics.add_count("right.chance", expected_correct, "strings", "expected number completed by drawing every token at random")
    metrics.add_measurement(
        "missed", max_correct - sum(is_correct), "strings", "ceiling minus strings completed: nought is all that can be had"
    )
    target_positions = losses.window_position + 1  # of each target within its string
    is_teacher_forced = [
        bool(losses.correct[(losses.document == n) & (target_positions >= prompt_length)].all())
        for n, prompt_length in enumerate(completions.prompt_lengths)
    ]
    description = "strings whose every token after the prompt is the most probable one when all before it are given: equals `right`"
    metrics.add_measurement("teacher_forced", sum(is_teacher_forced), "strings", description)
    texts = [_decode_text(context, ids) for group in (prompts, generated, continuations) for ids in group]
    num_strings = len(continuations)
    cells = [
        (texts[n], texts[num_strings + n], texts[2 * num_strings + n], "yes" if is_correct[n] else "no") for n in range(num_strings)
    ]
    metrics.tables.append(AuditTable("strings", "each string", ("prompt", "completion", "wanted", "right"), cells))


def max_completable(prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> int:
    """How many strings one fixed completion for each different prompt gets right at most."""
    best: dict[tuple[int, ...], int] = {}
    for (prompt, _), count in Counter((tuple(p), tuple(r)) for p, r in zip(prompts, continuations, strict=True)).items():
        best[prompt] = max(best.get(prompt, 0), count)
    return sum(best.values())


def _record_token_metrics(metrics: MetricRecorder, context: EvalContext, completions: CompletionSet, losses: TokenLosses) -> None:
    """Accuracy and loss of single tokens after the prompt, each told all that stands before it."""
    upper_bound = prefix_upper_bound(zip(completions.sequences, completions.prompt_lengths, strict=True))
    is_scored = losses.window_position + 1 >= torch.tensor(completions.prompt_lengths).numpy()[losses.document]
    num_correct, count = (losses.sum_by_document(w, len(completions.sequences)) for w in (losses.correct & is_scored, is_scored))
    record_accuracy(metrics, num_correct, count, upper_bound.max_accuracy, context.tokens.vocab_size)
    metrics.add_measurement("nats", float(losses.nats[is_scored].mean()), "nats/token", "mean loss of the tokens after the prompt")
    metrics.add_count(
        "floor",
        upper_bound.min_loss,
        "nats/token",
        "least mean loss that a causal predictor can have on them, by enumerating prefixes",
    )


def _record_line_metrics(
    metrics: MetricRecorder, context: EvalContext, sequences: Sequence[Sequence[int]], losses: TokenLosses
) -> None:
    """From every place of every held-out string: is the rest of the line there, to its end, what the net would write?"""
    line_ends = _line_end_ids(context)
    cases = [
        (n, position, _find_line_end(sequence, position, line_ends))
        for n, sequence in enumerate(sequences)
        for position in range(1, len(sequence))
    ]
    is_correct = {
        (n, p): correct for n, p, correct in zip(losses.document, losses.window_position + 1, losses.correct, strict=True)
    }
    line_correct = np.array([all(is_correct[n, p] for p in range(position, end)) for n, position, end in cases], np.float64)
    document = np.array([n for n, _, _ in cases])
    interval = ratio_interval(
        np.bincount(document, weights=line_correct).astype(np.float64), np.bincount(document).astype(np.float64)
    )
    description = "places in held-out strings from which greedy writing gives the rest of the line, to the token that ends it"
    metrics.add_count("lines.cases", len(cases), "places", f"cases of: {description}")
    metrics.add_measurement("lines.right", interval.value, "share", description)
    if len(sequences) > 1:
        metrics.add_measurement(
            "lines.right.low", interval.low, "share", "lower end of its 95 % interval, strings as the independent draws"
        )
        metrics.add_measurement(
            "lines.right.high", interval.high, "share", "upper end of its 95 % interval, strings as the independent draws"
        )
    max_correct = max_completable(
        [sequences[n][:position] for n, position, _ in cases], [sequences[n][position:end] for n, position, end in cases]
    )
    metrics.add_count(
        "lines.right.ceiling", max_correct / len(cases), "share", "most that is possible: equal beginnings have one completion"
    )
    expected = float(np.mean([float(context.tokens.vocab_size) ** (position - end) for _, position, end in cases]))
    metrics.add_count("lines.right.chance", expected, "share", "expected share if every token is drawn at random")


def _line_end_ids(context: EvalContext) -> set[int]:
    """Ids that end a line: of a line break, if there is one in the corpus, and of the end of a string."""
    ends = {i for i in range(context.tokens.vocab_size) if context.tokenizer.decode([i]) == b"\n"}
    return ends | ({context.tokens.special_tokens["eos"]} if "eos" in context.tokens.special_tokens else set())


def _find_line_end(sequence: Sequence[int], position: int, line_ends: set[int]) -> int:
    """One past the token that ends the line which `place` is in."""
    return next((n + 1 for n in range(position, len(sequence)) if sequence[n] in line_ends), len(sequence))


def _record_fixed_prompts(metrics: MetricRecorder, context: EvalContext, texts: Sequence[str]) -> None:
    """Right is a completion that makes the prompt one of the training strings, to its end; any of them where there are several."""
    prompts = [context.tokenizer.encode_prompt(text) for text in texts]
    sequences = _split_sequences(context.tokens.train)
    expected = [
        [sequence[len(prompt) :] for sequence in sequences if sequence[: len(prompt)] == prompt and len(sequence) > len(prompt)]
        for prompt in prompts
    ]
    if unmatched := [text for text, continuations in zip(texts, expected, strict=True) if not continuations]:
        raise ProvenlmError(f"probes.demos: no training string begins with {unmatched[0]!r} and goes on")
    generated = generate(
        context,
        prompts,
        GREEDY,
        max(len(continuation) for continuations in expected for continuation in continuations),
        torch.Generator(),
    )
    is_correct = [
        any(output[: len(continuation)] == continuation for continuation in continuations)
        for output, continuations in zip(generated, expected, strict=True)
    ]
    description = "fixed prompts that were completed, to the last token, to a string of the training split"
    metrics.add_measurement("right", sum(is_correct), "prompts", description)
    metrics.add_count("right.ceiling", len(prompts), "prompts", "all of them: each is the beginning of a training string")
    expected_correct = sum(
        float(context.tokens.vocab_size) ** -len(continuation) for continuations in expected for continuation in continuations
    )
    metrics.add_count("right.chance", expected_correct, "prompts", "expected number completed by drawing every token at random")
    cells = [
        (
            text,
            _decode_text(context, output),
            " or ".join(_decode_text(context, continuation) for continuation in continuations),
            "yes" if correct else "no",
        )
        for text, output, continuations, correct in zip(texts, generated, expected, is_correct, strict=True)
    ]
    metrics.tables.append(AuditTable("prompts", "each fixed prompt", ("prompt", "completion", "wanted", "right"), cells))


def _decode_text(context: EvalContext, ids: Sequence[int]) -> str:
    return context.tokenizer.decode(ids).decode("utf-8", "replace")


SPEC = ValidateSpec(StringsEvalConfig, make_probes)
