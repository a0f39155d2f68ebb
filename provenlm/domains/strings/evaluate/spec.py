"""Evaluate models of strings by completion.

Results are recorded with the best possible result and the chance level.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.core.errors import ConfigError
from provenlm.data.token_dataset import DatasetSplit
from provenlm.evaluation.ceilings import prefix_upper_bound
from provenlm.evaluation.confidence import ratio_interval, record_accuracy
from provenlm.evaluation.generate import generate
from provenlm.evaluation.probe import EvalContext, Probe, ValidateSpec
from provenlm.evaluation.token_loss import TokenLosses, sequence_losses
from provenlm.models.generation.sampling import GREEDY


@dataclass(frozen=True)
class StringsEvalConfig:
    """Configure the evaluation tasks of a recipe on strings."""

    prompt_chars: tuple[int, ...] = (1, 2)  # prompt lengths in characters; each is evaluated on all training strings
    fixed_prompts: tuple[str, ...] = ()  # prefixes of training strings, to be completed to one of them
    tokens_per_batch: int = 4096

    def __post_init__(self) -> None:
        if not self.prompt_chars or min(self.prompt_chars) < 1:
            raise ValueError(f"prompt_chars must be a non-empty list of numbers >= 1, got {list(self.prompt_chars)}")
        if self.tokens_per_batch < 1:
            raise ValueError(f"tokens_per_batch must be >= 1, got {self.tokens_per_batch}")


@dataclass(frozen=True)
class CompletionSet:
    """Hold tokenized strings and the number of prompt tokens of each."""

    sequences: Sequence[Sequence[int]]
    prompt_lengths: Sequence[int]

    def prompts(self) -> list[list[int]]:
        """Return the prompt of each string."""
        return [list(sequence[:n]) for sequence, n in zip(self.sequences, self.prompt_lengths, strict=True)]

    def continuations(self) -> list[list[int]]:
        """Return the tokens after the prompt of each string."""
        return [list(sequence[n:]) for sequence, n in zip(self.sequences, self.prompt_lengths, strict=True)]


def make_probes(config: StringsEvalConfig) -> Mapping[str, Probe]:
    """Return the tasks of the strings domain.

    They are `train_completion`, `val_completion` and `fixed_prompts`.
    """

    def train_completion(context: EvalContext, metrics: MetricRecorder) -> None:
        sequences = _split_sequences(context.tokens.train)
        metrics.add_count("strings", len(sequences), "strings", "Training strings that the model completes")
        losses = sequence_losses(context, sequences, config.tokens_per_batch, "train_completion")
        for num_chars in config.prompt_chars:
            completions = CompletionSet(sequences, [_prompt_length(context, sequence, num_chars) for sequence in sequences])
            with metrics.scope(f"prefix_{num_chars}") as scoped:
                _record_completions(scoped, context, completions, losses)
                data_label = f"tokens of training strings after the first {num_chars} characters"
                _record_token_metrics(scoped, context, completions, losses, data_label)

    def val_completion(context: EvalContext, metrics: MetricRecorder) -> None:
        sequences = _split_sequences(context.tokens.val)
        metrics.add_count("strings", len(sequences), "strings", "Held-out strings that the model completes")
        losses = sequence_losses(context, sequences, config.tokens_per_batch, "val_completion")
        completions = CompletionSet(sequences, [(len(sequence) + 1) // 2 for sequence in sequences])
        with metrics.scope("prefix_half") as scoped:
            _record_completions(scoped, context, completions, losses)
            _record_token_metrics(scoped, context, completions, losses, "tokens in the second half of held-out strings")
        _record_line_metrics(metrics, context, sequences, losses)

    def fixed_prompts(context: EvalContext, metrics: MetricRecorder) -> None:
        _record_fixed_prompts(metrics, context, config.fixed_prompts)

    needs = frozenset({"next_token_logits"})
    by_chance = "lines of held-out strings are completed no better than by guessing: train longer or on more strings"
    incomplete = "a fixed prompt is not completed to a training string: see the table of prompts"
    return {
        "train_completion": Probe(train_completion, needs),
        "val_completion": Probe(
            val_completion,
            needs | {"validation_split"},
            {"lines.accuracy.ci_low": Check("> lines.accuracy.chance", by_chance)},
        ),
        "fixed_prompts": Probe(
            fixed_prompts, needs | {"fixed_prompts"}, {"num_correct": Check(">= num_correct.ceiling", incomplete)}
        ),
    }


def find_conditions(config: StringsEvalConfig, context: EvalContext) -> Mapping[str, str | None]:
    """Return for each condition of the tasks why it is not met.

    None if it is met.
    """
    return {"fixed_prompts": None if config.fixed_prompts else "the recipe names no fixed_prompts (validate.probes)"}


def _split_sequences(split: DatasetSplit) -> list[list[int]]:
    return [split.ids[start:end].tolist() for start, end in zip(split.doc_offsets[:-1], split.doc_offsets[1:], strict=True)]


def _prompt_length(context: EvalContext, sequence: Sequence[int], num_chars: int) -> int:
    """Count the tokens of the first `num_chars` characters.

    Raises ValueError if they are not a proper prefix of the sequence.
    """
    prompt = context.tokenizer.encode_prompt(context.tokenizer.decode(sequence).decode()[:num_chars])
    if list(sequence[: len(prompt)]) != prompt or len(prompt) >= len(sequence):
        raise ValueError(f"the tokens of the first {num_chars} characters are not a proper prefix of the tokens of the string")
    return len(prompt)


def _record_completions(metrics: MetricRecorder, context: EvalContext, completions: CompletionSet, losses: TokenLosses) -> None:
    """Record how many greedy completions are correct.

    Correct means equal to the rest of the string, including its end.
    """
    prompts, continuations = completions.prompts(), completions.continuations()
    generated = generate(context, prompts, GREEDY, max(map(len, continuations)), torch.Generator())
    is_correct = [
        output[: len(continuation)] == continuation for output, continuation in zip(generated, continuations, strict=True)
    ]
    max_correct = max_completable(prompts, continuations)
    expected_correct = sum(float(context.tokens.vocab_size) ** -len(continuation) for continuation in continuations)
    metrics.add_measurement(
        "num_correct", sum(is_correct), "strings", "Strings that greedy generation completes correctly to the last token"
    )
    description = "Maximum number of strings that any model can complete: equal prompts have one greedy completion"
    metrics.add_count("num_correct.ceiling", max_correct, "strings", description)
    description = "Expected number of strings completed by drawing every token uniformly at random"
    metrics.add_count("num_correct.chance", expected_correct, "strings", description)
    description = "Maximum possible number of completed strings minus the number completed: 0 is optimal"
    metrics.add_measurement("num_missed", max_correct - sum(is_correct), "strings", description)
    target_positions = losses.window_position + 1  # of each target within its string
    is_teacher_forced = [
        bool(losses.correct[(losses.document == n) & (target_positions >= prompt_length)].all())
        for n, prompt_length in enumerate(completions.prompt_lengths)
    ]
    description = (
        "Strings of which every token after the prompt is the most probable one given all tokens before it; equals num_correct"
    )
    metrics.add_measurement("num_correct_teacher_forced", sum(is_teacher_forced), "strings", description)
    texts = [_decode_text(context, ids) for group in (prompts, generated, continuations) for ids in group]
    num_strings = len(continuations)
    cells = [
        (texts[n], texts[num_strings + n], texts[2 * num_strings + n], "yes" if is_correct[n] else "no") for n in range(num_strings)
    ]
    metrics.tables.append(
        AuditTable("strings", "Completion of each string", ("prompt", "completion", "expected", "correct"), cells)
    )


def max_completable(prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]]) -> int:
    """Count the strings that any model can complete at most.

    Equal prompts have one greedy completion.
    """
    best: dict[tuple[int, ...], int] = {}
    for (prompt, _), count in Counter((tuple(p), tuple(r)) for p, r in zip(prompts, continuations, strict=True)).items():
        best[prompt] = max(best.get(prompt, 0), count)
    return sum(best.values())


def _record_token_metrics(
    metrics: MetricRecorder, context: EvalContext, completions: CompletionSet, losses: TokenLosses, data_label: str
) -> None:
    """Record accuracy and loss of the tokens after the prompt.

    All tokens before them are given.
    """
    upper_bound = prefix_upper_bound(zip(completions.sequences, completions.prompt_lengths, strict=True))
    is_scored = losses.window_position + 1 >= torch.tensor(completions.prompt_lengths).numpy()[losses.document]
    num_correct, count = (losses.sum_by_document(w, len(completions.sequences)) for w in (losses.correct & is_scored, is_scored))
    record_accuracy(metrics, num_correct, count, upper_bound.max_accuracy, context.tokens.vocab_size, data_label)
    metrics.add_measurement("loss", float(losses.nats[is_scored].mean()), "nats/token", f"Mean loss of {data_label}")
    metrics.add_count(
        "min_achievable_loss",
        upper_bound.min_loss,
        "nats/token",
        f"Minimum mean loss of any causal model on {data_label}, by enumerating prefixes",
    )


def _record_line_metrics(
    metrics: MetricRecorder, context: EvalContext, sequences: Sequence[Sequence[int]], losses: TokenLosses
) -> None:
    """Record how often the model completes the rest of a line.

    Every position of every held-out string is a case.
    """
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
    accuracy = "fraction of positions in held-out strings from which greedy generation completes the rest of the line"
    metrics.add_count("lines.num_cases", len(cases), "positions", "Positions in held-out strings from which a line is completed")
    metrics.add_measurement("lines.accuracy", interval.value, "fraction", f"Accuracy on lines: {accuracy}")
    if len(sequences) > 1:
        description = f"end of the 95 % confidence interval over strings of the {accuracy}"
        metrics.add_measurement("lines.accuracy.ci_low", interval.low, "fraction", f"Lower {description}")
        metrics.add_measurement("lines.accuracy.ci_high", interval.high, "fraction", f"Upper {description}")
    max_correct = max_completable(
        [sequences[n][:position] for n, position, _ in cases], [sequences[n][position:end] for n, position, end in cases]
    )
    description = f"Maximum for any model, as equal prefixes have one greedy completion, of the {accuracy}"
    metrics.add_count("lines.accuracy.ceiling", max_correct / len(cases), "fraction", description)
    expected = float(np.mean([float(context.tokens.vocab_size) ** (position - end) for _, position, end in cases]))
    description = f"Expected value, if every token is drawn uniformly at random, of the {accuracy}"
    metrics.add_count("lines.accuracy.chance", expected, "fraction", description)


def _line_end_ids(context: EvalContext) -> set[int]:
    """Return the token ids that end a line.

    They are the line break, if the vocabulary has one, and the end of a string.
    """
    ends = {i for i in range(context.tokens.vocab_size) if context.tokenizer.decode([i]) == b"\n"}
    return ends | ({context.tokens.special_tokens["eos"]} if "eos" in context.tokens.special_tokens else set())


def _find_line_end(sequence: Sequence[int], position: int, line_ends: set[int]) -> int:
    """Return the index after the token that ends the line at `position`."""
    return next((n + 1 for n in range(position, len(sequence)) if sequence[n] in line_ends), len(sequence))


def _record_fixed_prompts(metrics: MetricRecorder, context: EvalContext, texts: Sequence[str]) -> None:
    """Record how many prompts are completed to a training string.

    The completion must reach the end of the string; any string that matches counts.
    """
    prompts = [context.tokenizer.encode_prompt(text) for text in texts]
    sequences = _split_sequences(context.tokens.train)
    expected = [
        [sequence[len(prompt) :] for sequence in sequences if sequence[: len(prompt)] == prompt and len(sequence) > len(prompt)]
        for prompt in prompts
    ]
    if unmatched := [text for text, continuations in zip(texts, expected, strict=True) if not continuations]:
        raise ConfigError(f"fixed_prompts must be proper prefixes of training strings, got {unmatched[0]!r}")
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
    description = "Fixed prompts that greedy generation completes to a string of the training split"
    metrics.add_measurement("num_correct", sum(is_correct), "prompts", description)
    metrics.add_count(
        "num_correct.ceiling", len(prompts), "prompts", "Number of fixed prompts; each is a prefix of a training string"
    )
    expected_correct = sum(
        float(context.tokens.vocab_size) ** -len(continuation) for continuations in expected for continuation in continuations
    )
    description = "Expected number of fixed prompts completed by drawing every token uniformly at random"
    metrics.add_count("num_correct.chance", expected_correct, "prompts", description)
    cells = [
        (
            text,
            _decode_text(context, output),
            " or ".join(_decode_text(context, continuation) for continuation in continuations),
            "yes" if correct else "no",
        )
        for text, output, continuations, correct in zip(texts, generated, expected, is_correct, strict=True)
    ]
    metrics.tables.append(
        AuditTable("prompts", "Completion of each fixed prompt", ("prompt", "completion", "expected", "correct"), cells)
    )


def _decode_text(context: EvalContext, ids: Sequence[int]) -> str:
    return context.tokenizer.decode(ids).decode("utf-8", "replace")


SPEC = ValidateSpec(StringsEvalConfig, make_probes, find_conditions)
