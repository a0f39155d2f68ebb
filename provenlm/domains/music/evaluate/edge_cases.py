"""Record how shortest, longest and invalid inputs are treated."""

from collections.abc import Callable

import torch
from torch import Tensor

from provenlm.core import rng
from provenlm.core.audit import AuditTable, Check, MetricRecorder
from provenlm.core.errors import DataError
from provenlm.domains.music.evaluate.pieces import music_tokenizer
from provenlm.evaluation.probe import EvalContext, Probe

UNKNOWN_TOKEN = "NoSuchToken_0"

Case = tuple[str, str, Callable[[], str]]  # name of the metric, what is tried, and what returns how it ended


def edge_cases_probe() -> Probe:
    """Return the probe of the edge cases; each must end as expected."""
    hint = "an edge case does not end as expected: the table shows how it ended"
    return Probe(record_edge_cases, frozenset({"next_token_logits"}), {"failures": Check("== 0", hint)})


@torch.inference_mode()
def record_edge_cases(context: EvalContext, metrics: MetricRecorder) -> None:
    """Record how each case ended."""
    vocab_size, longest = context.tokens.vocab_size, context.max_positions or context.max_seq_len
    generator = torch.Generator().manual_seed(rng.derive_seed(context.seed, "edge cases"))

    def random_tokens(length: int) -> Tensor:
        return torch.randint(vocab_size, (1, length), generator=generator).to(context.device)

    def logits(tokens_BT: Tensor) -> str:
        logits_BTV = context.logits(context.model, tokens_BT)
        if not bool(logits_BTV.isfinite().all()):
            return "failed: logits that are not finite"
        return f"{logits_BTV.shape[1]} × {logits_BTV.shape[2]} finite logits"

    def refuses(error_types: tuple[type[Exception], ...], action: Callable[[], object]) -> str:
        try:
            action()
        except error_types as error:
            return f"refused: {' '.join(str(error).split())[:120]}"
        return "failed: accepted"

    cases: list[Case] = [
        ("one_token", "A sequence of one token", lambda: logits(random_tokens(1))),
        ("longest", f"The longest sequence, {longest} tokens", lambda: logits(random_tokens(longest))),
        (
            "too_long",
            f"A sequence of {longest + 1} tokens",
            lambda: refuses((ValueError,), lambda: logits(random_tokens(longest + 1))),
        ),
        (
            "unknown_id",
            f"The token id {vocab_size}, one above the vocabulary",
            lambda: refuses((ValueError, IndexError), lambda: logits(torch.full((1, 1), vocab_size, device=context.device))),
        ),
        (
            "unknown_token",
            f"A prompt with the token {UNKNOWN_TOKEN}",
            lambda: refuses((DataError,), lambda: music_tokenizer(context).encode_prompt(UNKNOWN_TOKEN)),
        ),
        ("no_token", "Decoding no token at all", lambda: f"{len(music_tokenizer(context).decode([]))} bytes of MIDI"),
    ]
    rows = []
    for name, label, run in cases:
        outcome = run()
        rows.append((label, outcome))
        passed = not outcome.startswith("failed")
        metrics.add_measurement(f"{name}.passed", int(passed), "", f"1 if the case ended as expected, else 0. {label}: {outcome}")
    num_failures = sum(outcome.startswith("failed") for _, outcome in rows)
    metrics.add_measurement("failures", num_failures, "cases", "Edge cases that did not end as expected")
    metrics.tables.append(AuditTable("cases", "Edge cases and how they ended", ("case", "outcome"), rows))
