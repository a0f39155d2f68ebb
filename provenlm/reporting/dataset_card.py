"""What is known of a corpus in, its dataset card out: the hub's headings, then the questions of Datasheets for Datasets.

Gebru and others, Datasheets for Datasets, Communications of the ACM, volume LXIV.
"""

from collections.abc import Iterator
from typing import Any

from provenlm.reporting.cards import NO_LICENCE, UNKNOWN, Card, card, listed
from provenlm.reporting.citations import tabled
from provenlm.reporting.markdown import Markdown, bullets, code, strong, text

SPLITS = (("train", "train"), ("validation", "val"))  # as the hub calls them, as our figures do
NOBODY = "unknown"  # as a breakdown calls the records that do not say
ORDER = 10  # the hub's classes of size each hold ten times as much
LETTERS = ((10**9, "B"), (10**6, "M"), (10**3, "K"), (1, ""))


def dataset_card(about: Card) -> str:
    """The card of a corpus whose audits are `scrape`, `filter`, `dedupe` and `tokenize`."""
    return card("Dataset card of", about, _facts(about), _sections(about))


def _facts(about: Card) -> dict[str, Any]:
    kept = about.figure("dedupe", "records.unique")
    splits = [
        {"name": split, "num_bytes": size.value, "num_examples": count.value}
        for split, side in SPLITS
        if (size := about.figure("tokenize", f"bytes.{side}")) and (count := about.figure("tokenize", f"documents.{side}"))
    ]
    return {
        "license": NO_LICENCE,
        **({"language": codes} if (codes := [code for code in _values(about, "by_language") if code != NOBODY]) else {}),
        "pretty_name": about.name,
        "tags": ["provenlm"],
        **({"size_categories": [size_class(int(kept.value))]} if kept else {}),
        **({"dataset_info": {"splits": splits, "dataset_size": sum(split["num_bytes"] for split in splits)}} if splits else {}),
    }


def size_class(records: int) -> str:
    """The hub's class for so many records, between two powers of ten from a thousand on."""
    low = LETTERS[-2][0]
    if records < low:
        return f"n<{_letters(low)}"
    while records >= low * ORDER:
        low *= ORDER
    return f"{_letters(low)}<n<{_letters(low * ORDER)}"


def _letters(number: int) -> str:
    return next(f"{number // scale}{letter}" for scale, letter in LETTERS if number >= scale)


def _sections(about: Card) -> Iterator[tuple[int, str, Markdown]]:
    breakdowns = about.tables("tokenize", "by_")
    yield 2, "Dataset Details", Markdown("")
    yield (
        3,
        "Dataset Description",
        listed(
            [
                ("Curated by", UNKNOWN),
                ("Funded by", UNKNOWN),
                ("Shared by", UNKNOWN),
                ("Language(s) (NLP)", _named(about, "by_language")),
                ("License", _named(about, "by_licence")),
            ]
        ),
    )
    yield 2, "Uses", Markdown("")
    yield 3, "Direct Use", Markdown("Training and measuring the nets of this project's recipes.")
    yield 3, "Out-of-Scope Use", UNKNOWN
    yield 2, "Dataset Structure", _structure(about)
    for item in breakdowns:
        yield 3, f"By {text(item.columns[0])}", tabled(item)
    yield 2, "Dataset Creation", Markdown("")
    yield 3, "Curation Rationale", UNKNOWN
    yield 3, "Source Data", Markdown("")
    yield 4, "Data Collection and Processing", _processing(about)
    yield 4, "Who are the source data producers?", UNKNOWN
    for item in about.tables("scrape", "sources"):
        yield 4, "Sources", tabled(item)
    yield 3, "Annotations", Markdown("None.")
    yield 4, "Personal and Sensitive Information", _private(about)
    yield 2, "Bias, Risks, and Limitations", about.checked()
    yield 3, "Recommendations", about.failed()
    yield 2, "Datasheet", _datasheet(about)
    for title in ("Citation", "Dataset Card Authors", "Dataset Card Contact"):
        yield 2, title, UNKNOWN


def _values(about: Card, name: str) -> list[str]:
    """The values that a breakdown lists."""
    return [str(row[0]) for item in about.tables("tokenize", name) for row in item.rows]


def _named(about: Card, name: str) -> Markdown:
    return text(", ".join(values)) if (values := _values(about, name)) else UNKNOWN


def _structure(about: Card) -> Markdown:
    rows = [
        f"{strong(Markdown(split))}: {about.cited('tokenize', f'documents.{side}')}, {about.cited('tokenize', f'bytes.{side}')}, "
        f"{about.cited('tokenize', f'tokens.{side}')}"
        for split, side in SPLITS
    ]
    overlap = f"Clusters of near duplicates on both sides: {about.cited('tokenize', 'clusters.overlap')}"
    return bullets(Markdown(row) for row in [*rows, overlap])


def _processing(about: Card) -> Markdown:
    """From addresses to unique records, with the settings of each step."""
    steps = (
        ("scrape", "Scraped", "records", "bytes"),
        ("filter", "Kept by the filter", "records.kept", "bytes.kept"),
        ("dedupe", "Unique", "records.unique", "bytes.unique"),
    )
    return bullets(
        Markdown(f"{strong(Markdown(word))}: {about.cited(stage, count)}, {about.cited(stage, size)}. {about.told(stage, stage)}")
        for stage, word, count, size in steps
    )


def _private(about: Card) -> Markdown:
    """What the filter found of it, if it looked."""
    source = about.sources.get("filter")
    figures = source.audit.figures if source and source.audit else {}
    found = [name for name in figures if name.startswith("private.")]
    return (
        listed((code(name), about.cited("filter", name)) for name in found)
        if found
        else Markdown("Unknown: nothing looked for it.")
    )


def _datasheet(about: Card) -> Markdown:
    return listed(
        [
            ("Motivation", UNKNOWN),
            ("Composition", Markdown(f"{about.cited('dedupe', 'records.unique')}; see Dataset Structure")),
            ("Collection process", Markdown(f"{about.cited('scrape', 'addresses')}; see Data Collection and Processing")),
            ("Preprocessing, cleaning, labelling", Markdown("see Data Collection and Processing; nothing is labelled")),
            ("Uses", Markdown("see Uses")),
            ("Distribution", UNKNOWN),
            ("Maintenance", UNKNOWN),
        ]
    )
