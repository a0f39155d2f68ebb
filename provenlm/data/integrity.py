"""Check that the token arrays contain every record, by decoding all of them again.

A record matches if the document with its id, read back from the file and decoded, has the digest that the record id is made of; for a
tokenizer that quantises, if both have the same canonical form.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from provenlm.core import hashing
from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.interfaces import Tokenizer
from provenlm.core.records import Record
from provenlm.data.token_dataset import SPLIT_NAMES, DatasetSplit, TokenDataset

MAX_TABLE_ROWS = 20
METADATA_FIELDS = ("site", "topic", "license", "language", "profile")  # metadata by which the corpus is broken down


@dataclass
class IntegrityResult:
    """Hold the outcome of comparing records with the token arrays."""

    matched: int = 0
    mismatched: list[Record] = field(default_factory=list)  # their document decodes to something else
    missing: list[Record] = field(default_factory=list)  # there is no document with their id
    extra: int = 0  # documents that are no record
    prompt_counts: dict[str, Counter[str]] = field(default_factory=dict)  # by prompt: the records of each split that contain it
    metadata_counts: dict[str, dict[str, Counter[str]]] = field(default_factory=lambda: {key: {} for key in METADATA_FIELDS})


def check_integrity(
    records: Iterable[Record],
    dataset: TokenDataset,
    tokenizer: Tokenizer,
    prompts: Sequence[str],
    canonical: Callable[[bytes], bytes] | None = None,
) -> IntegrityResult:
    """Compare each record with its document, and search the records for `prompts`.

    `canonical(content)` returns what of a content the tokenizer preserves; None: all bytes.

    Memory holds one record and the location of every document.
    """
    splits: dict[str, DatasetSplit] = {"train": dataset.train, "val": dataset.val}
    doc_locations = {
        record_id: (split_name, doc_index)
        for split_name in SPLIT_NAMES
        for doc_index, record_id in enumerate(splits[split_name].record_ids)
    }
    result = IntegrityResult(prompt_counts={prompt: Counter() for prompt in prompts})
    for record in records:
        split_name, doc_index = doc_locations.pop(record.id, (None, 0))
        if split_name is None:
            result.missing.append(record)
            continue
        split = splits[split_name]
        ids = split.ids[split.doc_offsets[doc_index] : split.doc_offsets[doc_index + 1]].tolist()
        decoded = tokenizer.decode(ids)
        is_match = hashing.sha256_bytes(decoded)[: len(record.id)] == record.id
        if canonical is not None and not is_match:
            is_match = canonical(decoded) == canonical(record.content)
        num_words = len(record.content.split())
        result.matched += is_match
        if not is_match:
            result.mismatched.append(record)
        for prompt, counts in result.prompt_counts.items():
            counts[split_name] += prompt.encode() in record.content
        for key in METADATA_FIELDS:
            tally = result.metadata_counts[key].setdefault(metadata_value(record, key), Counter())
            tally.update(records=1, bytes=len(record.content), words=num_words, tokens=len(ids), **{split_name: len(ids)})
            tally["matched"] += is_match
    result.extra = len(doc_locations)
    return result


def metadata_value(record: Record, key: str) -> str:
    """Return a metadata value, or `unknown`; the site defaults to the source's host."""
    value = record.metadata.get(key)
    if value is None and key == "site":
        return urlsplit(record.source).netloc or record.source.split(":", 1)[0]
    return "unknown" if value is None else str(value)


def record_integrity(audit: MetricRecorder, result: IntegrityResult) -> None:
    """Record matches, contamination prompts and the breakdown by metadata."""
    with audit.scope("integrity") as metrics:
        metrics.add_count(
            "matched", result.matched, "records", "Records whose document decodes to the same bytes; all records are tested"
        )
        metrics.add_count(
            "missing", len(result.missing), "records", "Records without a document in the token arrays; all records are tested"
        )
        metrics.add_count("extra", result.extra, "documents", "Documents in the token arrays that are none of the records")
        description = "Records whose document decodes to other bytes; all records are tested"
        metrics.add_count("decode_mismatch", len(result.mismatched), "records", description)
        metrics.add_check("decode_mismatch", "== 0", "the tokenizer loses text: see the table integrity.decode_mismatch")
        metrics.add_check(
            "missing", "== 0", "records are not in the token arrays: see the table integrity.missing; run tokenize again"
        )
        metrics.add_check("extra", "== 0", "the token arrays hold documents of other records: run tokenize again")
        for name, label, records in (
            ("decode_mismatch", "records whose document decodes to other bytes", result.mismatched),
            ("missing", "records without a document in the token arrays", result.missing),
        ):
            rows = [(record.id, record.source) for record in records[:MAX_TABLE_ROWS]]
            if rows or name == "decode_mismatch":
                metrics.tables.append(AuditTable(name, f"The first {MAX_TABLE_ROWS} {label}", ("id", "source"), rows))
    if result.prompt_counts:
        _record_contamination(audit, result.prompt_counts)
    for key, values in result.metadata_counts.items():
        num_distinct = len(values.keys() - {"unknown"})
        if num_distinct:
            audit.add_count(f"metadata.distinct.{key}", num_distinct, "values", f"Distinct values of the metadata field `{key}`")
            audit.tables.append(breakdown_table(key, values))


def _record_contamination(audit: MetricRecorder, prompt_counts: dict[str, Counter[str]]) -> None:
    description = "Contamination prompts: texts of evaluation prompts that were searched for in the corpus"
    audit.add_count("contamination.prompts", len(prompt_counts), "prompts", description)
    for split_name, label in (("train", "training"), ("val", "validation")):
        count = sum(counts[split_name] > 0 for counts in prompt_counts.values())
        description = f"Contamination prompts that occur verbatim in a {label} document"
        audit.add_count(f"contamination.prompts_in_{split_name}", count, "prompts", description)
    rows = [(repr(prompt), counts["train"], counts["val"]) for prompt, counts in prompt_counts.items()]
    description = "Documents that contain each prompt; a model can complete a prompt that occurs in training from memory"
    audit.tables.append(AuditTable("contamination", description, ("prompt", "training", "validation"), rows))


def breakdown_table(key: str, values: dict[str, Counter[str]]) -> AuditTable:
    """Tabulate the corpus by one metadata field, the most tokens first."""
    total_tokens = max(1, sum(tally["tokens"] for tally in values.values()))
    order = sorted(values, key=lambda value: (-values[value]["tokens"], value))
    rows: list[Sequence[int | float | str]] = []
    for value in order[:MAX_TABLE_ROWS]:
        tally = values[value]
        fractions = (round(tally["tokens"] / total_tokens, 4), round(tally["val"] / max(1, tally["tokens"]), 4))
        rates = (round(tally["bytes"] / max(1, tally["tokens"]), 3), round(tally["tokens"] / max(1, tally["words"]), 3))
        match_rate = round(tally["matched"] / tally["records"], 4)
        rows.append((value, tally["records"], tally["bytes"], tally["tokens"], *fractions, *rates, match_rate))
    columns = (
        key, "records", "bytes", "tokens", "fraction of tokens", "validation fraction", "bytes per token", "tokens per word", "matched",
    )  # fmt: skip
    limit = "" if len(order) <= MAX_TABLE_ROWS else f", the largest {MAX_TABLE_ROWS} of {len(order)}"
    return AuditTable(f"by_{key}", f"Records by {key}{limit}", columns, rows)
