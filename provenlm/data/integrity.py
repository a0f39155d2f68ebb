"""Records and the token arrays that were written of them in; out, which records stand in the arrays: all of them are looked for.

A record is found when the document under its id, read back from the file and decoded, has the digest that the record is named by.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from provenlm.core import hashing
from provenlm.core.audit import AuditTable, MetricRecorder
from provenlm.core.interfaces import Tokenizer
from provenlm.core.records import Record
from provenlm.data.token_dataset import SPLIT_NAMES, DatasetSplit, TokenDataset

MAX_TABLE_ROWS = 20  # records shown of each fault; places of origin shown of each kind
METADATA_FIELDS = ("site", "domain", "licence", "language", "profile")  # facts of a record by which the corpus is broken down


@dataclass
class IntegrityResult:
    """`differing`: their document decodes to something else; `missing`: there is none; `strange`: documents that are no record."""

    matched: int = 0
    mismatched: list[Record] = field(default_factory=list)
    missing: list[Record] = field(default_factory=list)
    extra: int = 0
    prompt_counts: dict[str, Counter[str]] = field(
        default_factory=dict
    )  # of each probe, in how many records of each side it stands
    metadata_counts: dict[str, dict[str, Counter[str]]] = field(default_factory=lambda: {key: {} for key in METADATA_FIELDS})


def check_integrity(
    records: Iterable[Record], dataset: TokenDataset, tokenizer: Tokenizer, prompts: Sequence[str]
) -> IntegrityResult:
    """Look for each of `records` in `tokens`, and for each of `probes` in the records. In memory: one record, and the place of each."""
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
        is_match, num_words = (
            hashing.sha256_bytes(tokenizer.decode(ids))[: len(record.id)] == record.id,
            len(record.content.split()),
        )
        result.matched += is_match
        if not is_match:
            result.mismatched.append(record)
        for prompt, counts in result.prompt_counts.items():
            counts[split_name] += prompt.encode() in record.content
        for key in METADATA_FIELDS:
            tally = result.metadata_counts[key].setdefault(metadata_value(record, key), Counter())
            tally.update(records=1, bytes=len(record.content), words=num_words, tokens=len(ids), **{split_name: len(ids)})
            tally["whole"] += is_match
    result.extra = len(doc_locations)
    return result


def metadata_value(record: Record, key: str) -> str:
    """What `record` says of itself; its host where it does not name its site, `unknown` where it does not say."""
    value = record.metadata.get(key)
    if value is None and key == "site":
        return urlsplit(record.source).netloc or record.source.split(":", 1)[0]
    return "unknown" if value is None else str(value)


def record_integrity(audit: MetricRecorder, result: IntegrityResult) -> None:
    description = "records whose document, read back from the arrays and decoded, has the digest that the record is named by"
    audit.add_count("found", result.matched, "records", description)
    audit.add_count(
        "missing", len(result.missing), "records", "unique records that stand nowhere in the arrays; all are looked for"
    )
    audit.add_count("strange", result.extra, "documents", "documents of the arrays that are none of the unique records")
    description = "records that differ when decoded again; every record is tried"
    audit.add_count("round_trip_failures", len(result.mismatched), "records", description)
    for name, description, faulty_records in (
        ("round_trip", "that differ when decoded again", result.mismatched),
        ("missing", "that stand nowhere in the arrays", result.missing),
    ):
        rows = [(item.id, item.source) for item in faulty_records[:MAX_TABLE_ROWS]]
        if rows or name == "round_trip":
            audit.tables.append(AuditTable(name, f"the first {MAX_TABLE_ROWS} records {description}", ("id", "source"), rows))
    if result.prompt_counts:
        audit.add_count("probes", len(result.prompt_counts), "probes", "texts that a trained net will be asked about")
        for split_name, name in (("train", "training"), ("val", "held-out")):
            num_prompts = sum(counts[split_name] > 0 for counts in result.prompt_counts.values())
            audit.add_count(
                f"probes.{split_name}", num_prompts, "probes", f"probes that stand, letter by letter, in a {name} record"
            )
        prompt_rows = [(repr(prompt), counts["train"], counts["val"]) for prompt, counts in result.prompt_counts.items()]
        description = "in how many records each probe stands: of one that stands in training, memory alone can know how it goes on"
        audit.tables.append(AuditTable("probes", description, ("probe", "training", "held out"), prompt_rows))
    for key, values in result.metadata_counts.items():
        if values.keys() - {"unknown"}:
            audit.add_count(f"origins.{key}", len(values.keys() - {"unknown"}), "values", f"different values of the fact `{key}`")
            audit.tables.append(breakdown_table(key, values))


def breakdown_table(key: str, values: dict[str, Counter[str]]) -> AuditTable:
    """What the corpus consists of by one fact, the largest first."""
    total_tokens = max(1, sum(tally["tokens"] for tally in values.values()))
    order = sorted(values, key=lambda value: (-values[value]["tokens"], value))
    rows: list[Sequence[int | float | str]] = []
    for value in order[:MAX_TABLE_ROWS]:
        tally = values[value]
        fractions = (round(tally["tokens"] / total_tokens, 4), round(tally["val"] / max(1, tally["tokens"]), 4))
        rates = (round(tally["bytes"] / max(1, tally["tokens"]), 3), round(tally["tokens"] / max(1, tally["words"]), 3))
        round_trip = round(tally["whole"] / tally["records"], 4)
        rows.append((value, tally["records"], tally["bytes"], tally["tokens"], *fractions, *rates, round_trip))
    columns = (key, "records", "bytes", "tokens", "share of tokens", "held out", "bytes a token", "tokens a word", "round trip")
    description = (
        f"records by {key}" if len(order) <= MAX_TABLE_ROWS else f"records by {key}, the largest {MAX_TABLE_ROWS} of {len(order)}"
    )
    return AuditTable(f"by_{key}", description, columns, rows)
