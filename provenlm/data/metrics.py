"""What was encoded, and the audits of the stages before, in; figures, and what is left of the corpus at each step, out."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from provenlm.core.audit import Audit, Recorder, Series, Table
from provenlm.core.errors import UserError
from provenlm.core.interfaces import Codec
from provenlm.data.token_dataset import SIDES

LINKS = (  # a count that a stage wrote and the same count as the next one read it
    ("scrape", "records", "filter", "records.in"),
    ("scrape", "bytes", "filter", "bytes.in"),
    ("filter", "records.kept", "dedupe", "records.in"),
    ("filter", "bytes.kept", "dedupe", "bytes.in"),
)


@dataclass
class Tally:
    """What was encoded, by side of the split."""

    documents: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    tokens: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(SIDES, 0))
    clusters: dict[str, set[str]] = field(default_factory=lambda: {side: set() for side in SIDES})
    lengths: list[int] = field(default_factory=list)  # tokens of each document
    body_tokens: int = 0  # without special ones
    body_words: int = 0
    unlearned: int = 0


def check_chain(history: Mapping[str, Audit], deduped: int) -> None:
    """UserError unless each stage read what the one before it wrote."""
    links = [(*link, figure(history, *link[:2]), figure(history, *link[2:])) for link in LINKS]
    links.append(("dedupe", "records.unique", "tokenize", "records in", figure(history, "dedupe", "records.unique"), deduped))
    for before, wrote, after, read, one, other in links:
        if one != other:
            raise UserError(f"{before} says {wrote} = {one}, but {after} says {read} = {other}; run `dvc repro` from {before} on")


def figure(history: Mapping[str, Audit], stage_name: str, name: str) -> int:
    figures = history[stage_name].figures
    if name not in figures:
        raise UserError(f"the audit of {stage_name} holds no figure {name!r}; run {stage_name} again")
    return int(figures[name].value)


def record(audit: Recorder, codec: Codec, tally: Tally) -> None:
    total = len(tally.lengths)
    audit.counted("vocabulary", codec.vocabulary, "ids", "distinct token ids, special ones included")
    audit.counted("records.in", total, "records", "unique records that were encoded")
    for side, name in (("train", "training"), ("val", "held-out")):
        audit.counted(f"documents.{side}", tally.documents[side], "documents", f"records on the {name} side")
        audit.counted(f"tokens.{side}", tally.tokens[side], "tokens", f"tokens on the {name} side, special ones included")
        audit.counted(f"bytes.{side}", tally.bytes[side], "bytes", f"bodies on the {name} side")
        audit.counted(f"clusters.{side}", len(tally.clusters[side]), "clusters", f"duplicate clusters on the {name} side")
    balance = total - sum(tally.documents.values())
    audit.counted("balance", balance, "records", "records in, less documents of both sides: 0 if none was lost")
    overlap = len(tally.clusters["train"] & tally.clusters["val"])
    audit.counted("clusters.overlap", overlap, "clusters", "duplicate clusters with records on both sides: 0 if none straddles")
    per_token = sum(tally.bytes.values()) / max(1, tally.body_tokens)
    audit.measured("bytes_per_token", round(per_token, 4), "bytes", "bytes of all bodies by their tokens, special ones left out")
    meaning = "tokens by words, which are runs without ASCII whitespace: the fertility of the codec"
    audit.measured("tokens_per_word", round(tally.body_tokens / max(1, tally.body_words), 4), "tokens", meaning)
    meaning = "tokens that stand for a single byte or an unknown piece, because no learned token covers it"
    audit.counted("unlearned", tally.unlearned, "tokens", meaning)
    audit.series.append(lengths(tally))


def lengths(tally: Tally) -> Series:
    """Documents by length, in bins that double."""
    bins = max(tally.lengths).bit_length() + 1
    counts = [0] * bins
    for length in tally.lengths:
        counts[length.bit_length()] += 1
    edges = [0.0, *(2.0**power for power in range(bins))]
    return Series("lengths", "bars", "documents by length", "tokens of a document", "documents", edges, {"documents": counts})


def yields(history: Mapping[str, Audit], tally: Tally) -> Table:
    """From what was fetched to what the trainer will see."""
    scraped = figure(history, "scrape", "bytes")
    steps: list[tuple[str, int, int, int | str]] = [
        ("fetched", figure(history, "scrape", "addresses"), figure(history, "scrape", "bytes_received"), ""),
        ("scraped", figure(history, "scrape", "records"), scraped, ""),
        ("kept by the filter", figure(history, "filter", "records.kept"), figure(history, "filter", "bytes.kept"), ""),
        ("unique", figure(history, "dedupe", "records.unique"), figure(history, "dedupe", "bytes.unique"), ""),
        ("trained on", tally.documents["train"], tally.bytes["train"], tally.tokens["train"]),
    ]
    rows = [(name, count, size, round(size / max(1, scraped), 6), tokens) for name, count, size, tokens in steps]
    columns = ("step", "records", "bytes", "share of the scraped bytes", "tokens")
    return Table("yield", "what is left at each step, from the fetched bytes to the tokens of the trainer", columns, rows)


def balance(audit: Recorder, history: Mapping[str, Audit], tally: Tally, held: int) -> None:
    """Whether everything that went into a step came out of it or was dropped for a reason; `held`: tokens in the arrays."""
    unique, kept = figure(history, "dedupe", "bytes.unique"), figure(history, "filter", "bytes.kept")
    said = figure(history, "scrape", "records") + sum(figure(history, "scrape", name) for name in ("refused", "failed"))
    gone = sum(figure(history, "filter", name) for name in ("bytes.dropped", "bytes.masked"))
    steps = (
        ("scrape", "addresses", figure(history, "scrape", "addresses"), said, "records, refused, failed"),
        ("filter", "bytes", figure(history, "scrape", "bytes"), kept + gone, "kept, dropped, masked"),
        ("dedupe", "bytes", kept, unique + figure(history, "dedupe", "bytes.removed"), "unique, removed"),
        ("tokenize", "bytes", unique, sum(tally.bytes.values()), "trained on, held out"),
        ("tokenize", "tokens", sum(tally.tokens.values()), held, "tokens in the arrays on disk"),
    )
    rows = [(step, what, went, out, as_, went - out) for step, what, went, out, as_ in steps]
    audit.counted("chain", sum(abs(row[-1]) for row in rows), "differences", "sum of the column `lost` of the table `balance`: 0")
    columns = ("step", "what", "in", "out", "out as", "lost")
    audit.tables.append(
        Table("balance", "what went into each step and what came out of it, from addresses to tokens", columns, rows)
    )
