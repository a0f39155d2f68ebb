"""Render the dataset card of a corpus for the Hugging Face Hub.

It has the Hub's headings and the questions of Datasheets for Datasets.

Gebru et al., Datasheets for Datasets, Communications of the ACM, volume LXIV.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from provenlm.reporting.cards import UNKNOWN, UNKNOWN_LICENSE, Card, definition_list, render_card
from provenlm.reporting.citations import cite_table
from provenlm.reporting.markdown import Markdown, bold, bullet_list, code, escape

SPLIT_NAMES = (("train", "train"), ("validation", "val"))  # name on the Hub, name in our metrics
UNKNOWN_VALUE = "unknown"  # value of a breakdown for records without the metadata
SIZE_STEP = 10  # ratio of the bounds of one size category of the Hub
SIZE_SUFFIXES = ((10**9, "B"), (10**6, "M"), (10**3, "K"), (1, ""))


def dataset_card(card: Card, hub_metadata: Mapping[str, Any] | None = None) -> str:
    """Render the card of a corpus from its scrape, filter, dedupe and tokenize audits.

    `hub_metadata` replaces entries of the YAML front matter; an entry of None is left out.
    """
    metadata = {**_metadata(card), **(hub_metadata or {})}
    present = {name: value for name, value in metadata.items() if value is not None}
    return render_card("Dataset card of", card, present, _sections(card))


def _metadata(card: Card) -> dict[str, Any]:
    unique_records = card.metric("dedupe", "records.unique")
    splits = [
        {"name": split, "num_bytes": size.value, "num_examples": count.value}
        for split, side in SPLIT_NAMES
        if (size := card.metric("tokenize", f"bytes.{side}")) and (count := card.metric("tokenize", f"documents.{side}"))
    ]
    return {
        "license": UNKNOWN_LICENSE,
        **({"language": codes} if (codes := [code for code in _values(card, "by_language") if code != UNKNOWN_VALUE]) else {}),
        "pretty_name": card.name,
        "tags": ["provenlm"],
        **({"size_categories": [size_category(int(unique_records.value))]} if unique_records else {}),
        **({"dataset_info": {"splits": splits, "dataset_size": sum(split["num_bytes"] for split in splits)}} if splits else {}),
    }


def size_category(records: int) -> str:
    """Return the Hub's size category for a number of records.

    A category lies between two powers of ten, from a thousand on.
    """
    lower = SIZE_SUFFIXES[-2][0]
    if records < lower:
        return f"n<{_with_suffix(lower)}"
    while records >= lower * SIZE_STEP:
        lower *= SIZE_STEP
    return f"{_with_suffix(lower)}<n<{_with_suffix(lower * SIZE_STEP)}"


def _with_suffix(number: int) -> str:
    return next(f"{number // scale}{suffix}" for scale, suffix in SIZE_SUFFIXES if number >= scale)


def _sections(card: Card) -> Iterator[tuple[int, str, Markdown]]:
    breakdowns = card.tables("tokenize", "by_")
    yield 2, "Dataset Details", Markdown("")
    yield (
        3,
        "Dataset Description",
        definition_list(
            [
                ("Curated by", UNKNOWN),
                ("Funded by", UNKNOWN),
                ("Shared by", UNKNOWN),
                ("Language(s) (NLP)", _breakdown_text(card, "by_language")),
                ("License", _breakdown_text(card, "by_license")),
            ]
        ),
    )
    yield 2, "Uses", Markdown("")
    yield 3, "Direct Use", Markdown("Training and evaluating the models of this project's recipes.")
    yield 3, "Out-of-Scope Use", UNKNOWN
    yield 2, "Dataset Structure", _structure(card)
    for table_data in breakdowns:
        yield 3, f"By {escape(table_data.columns[0])}", cite_table(table_data)
    yield 2, "Dataset Creation", Markdown("")
    yield 3, "Curation Rationale", UNKNOWN
    yield 3, "Source Data", Markdown("")
    yield 4, "Data Collection and Processing", _processing(card)
    yield 4, "Who are the source data producers?", UNKNOWN
    for table_data in card.tables("scrape", "sources"):
        yield 4, "Sources", cite_table(table_data)
    yield 3, "Annotations", Markdown("None.")
    yield 4, "Personal and Sensitive Information", _personal_data(card)
    yield 2, "Bias, Risks, and Limitations", card.checks_table()
    yield 3, "Recommendations", card.failed_checks()
    yield 2, "Datasheet", _datasheet(card)
    for title in ("Citation", "Dataset Card Authors", "Dataset Card Contact"):
        yield 2, title, UNKNOWN


def _values(card: Card, name: str) -> list[str]:
    """Return the values in the first column of a breakdown."""
    return [str(row[0]) for table_data in card.tables("tokenize", name) for row in table_data.rows]


def _breakdown_text(card: Card, name: str) -> Markdown:
    return escape(", ".join(values)) if (values := _values(card, name)) else UNKNOWN


def _structure(card: Card) -> Markdown:
    rows = [
        f"{bold(Markdown(split))}: {card.cite('tokenize', f'documents.{side}')}, {card.cite('tokenize', f'bytes.{side}')}, "
        f"{card.cite('tokenize', f'tokens.{side}')}"
        for split, side in SPLIT_NAMES
    ]
    overlap = f"Near-duplicate clusters in both splits: {card.cite('tokenize', 'split.shared_clusters')}"
    return bullet_list(Markdown(row) for row in [*rows, overlap])


def _processing(card: Card) -> Markdown:
    """Describe the steps from URLs to unique records, with their configuration."""
    steps = (
        ("scrape", "Scraped", "records", "bytes"),
        ("filter", "Kept by the filter", "records.kept", "bytes.kept"),
        ("dedupe", "Unique", "records.unique", "bytes.unique"),
    )
    return bullet_list(
        Markdown(f"{bold(Markdown(word))}: {card.cite(stage, count)}, {card.cite(stage, size)}. {card.settings_line(stage, stage)}")
        for stage, word, count, size in steps
    )


def _personal_data(card: Card) -> Markdown:
    """List the personal data that the filter detected, if it was enabled."""
    file = card.audit_files.get("filter")
    metrics = file.audit.metrics if file and file.audit else {}
    pii_metrics = [name for name in metrics if name.startswith("pii.")]
    return (
        definition_list((code(name), card.cite("filter", name)) for name in pii_metrics)
        if pii_metrics
        else Markdown("Unknown: the filter for personal data was not enabled.")
    )


def _datasheet(card: Card) -> Markdown:
    return definition_list(
        [
            ("Motivation", UNKNOWN),
            ("Composition", Markdown(f"{card.cite('dedupe', 'records.unique')}; see Dataset Structure")),
            ("Collection process", Markdown(f"{card.cite('scrape', 'urls.seen')}; see Data Collection and Processing")),
            ("Preprocessing, cleaning, labeling", Markdown("see Data Collection and Processing; no labels")),
            ("Uses", Markdown("see Uses")),
            ("Distribution", UNKNOWN),
            ("Maintenance", UNKNOWN),
        ]
    )
