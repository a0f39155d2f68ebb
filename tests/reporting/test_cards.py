"""Model and dataset cards: read by Hugging Face's own reader, every number cited, what nobody recorded said to be unknown."""

import html
import re

import pytest
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from provenlm.core.audit import AuditTable, Metric
from provenlm.reporting.dataset_card import size_category
from provenlm.reporting.render import render_report

CITATION = re.compile(r'\[((?:\\.|[^\]\\])*)\]\(([^ )]+) "((?:\\.|[^"\\])*)"\)')
ROWS = {
    "toy/validate.heldout.perplexity": {"bound": "< 10", "else": "train longer"},
    "words/tokenize.missing": {"bound": "== 0", "else": "find them"},
}
TOLD = {"recipes.toy.net": {"kind": "moe", "hidden": 16}, "recipes.toy.corpus": "words", "recipes.toy.train": {"steps": 7}}
HOSTILE = "<img src=x onerror=alert()>|[x](http://evil)\n# heading"


def count(value: int | float | str, unit: str) -> Metric:
    return Metric(value, unit, "as counted", "counted")


@pytest.fixture
def cards(source, absent):
    """`cards(**more)`: the cards by name; a keyword replaces a source by its stage."""

    def cards(**more):
        found = {
            "scrape": source("words", "scrape", tables=[AuditTable("sources", "where from", ["source", "records"], [["a", 9]])], records=count(9, "records")),
            "filter": source("words", "filter"),
            "dedupe": source("words", "dedupe", records__unique=count(7, "records")),
            "tokenize": source(
                "words",
                "tokenize",
                documents__train=count(6, "documents"),
                bytes__train=count(60, "bytes"),
                documents__val=count(1, "documents"),
                bytes__val=count(10, "bytes"),
                missing=count(0, "records"),
            ),
            "train": source("toy", "train", provenance={"params": TOLD, "device": "cpu", "versions": {"torch": "9.9"}}, steps=count(7, "steps")),
            "validate": source("toy", "validate", heldout__perplexity=12.5, parameters__total=count(4624, "parameters")),
        } | more  # fmt: skip
        files = render_report("proof", "A proof", list(found.values()), absent("proof", "report"), ROWS, "w", None).files
        return {name.removeprefix("proof_cards/"): data.decode() for name, data in files.items() if "_cards/" in name}

    return cards


def test_there_is_a_card_for_each_recipe_and_each_corpus(cards):
    assert list(cards()) == ["words.md", "toy.md"]


def test_the_page_links_to_the_cards(source, absent):
    files = render_report("proof", "A proof", [source("toy", "train")], absent("proof", "report"), {}, "w", None).files
    assert "[toy](proof_cards/toy.md)" in files["proof.md"].decode() and "proof_cards/toy.md" in files


def test_the_hub_reads_the_results_of_a_model_with_their_source(cards):
    read = ModelCard(cards()["toy.md"]).data
    (result,) = read.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("heldout.perplexity", 12.5, "words")
    assert (result.source_name, result.source_url) == ("toy/validate", "../audits/toy/validate.json")
    assert (read.license, read.datasets, read.tags) == ("unknown", ["words"], ["provenlm", "moe"])


def test_the_hub_reads_the_splits_of_a_dataset_and_its_class_of_size(cards):
    read = DatasetCard(cards()["words.md"]).data.to_dict()
    train, validation = read["dataset_info"]["splits"]
    assert (train["num_examples"], train["num_bytes"], validation["num_examples"]) == (6, 60, 1)
    assert (read["dataset_info"]["dataset_size"], read["size_categories"]) == (70, ["n<1K"])


@pytest.mark.parametrize(
    ("records", "named"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (100_000, "100K<n<1M"), (10**9, "1B<n<10B")],
)
def test_classes_of_size_are_the_hubs(records, named):
    assert size_category(records) == named


def test_every_number_of_a_card_is_cited_and_its_audit_one_folder_up(cards):
    for page in cards().values():
        body = page.split("---\n")[2]
        cited = CITATION.findall(body)
        assert cited and all(target.startswith("../audits/") for _, target, _ in cited)
        table_rows = [line for line in body.splitlines() if line.startswith("| a ")]  # rows that an audit wrote
        rest = "\n".join(line for line in CITATION.sub("", body).splitlines() if line not in table_rows)
        rest = re.sub(r"`[^`]*`|\*\*(7|16)\*\*|torch 9\.9", "", rest)  # bounds, settings and versions, which are text of an audit
        assert not re.search(r"\d", rest), rest


def test_a_check_stands_on_the_card_with_its_verdict_and_advice(cards):
    page = cards()["toy.md"]
    assert re.search(r"\| \*\*FAIL\*\* \| `validate` `heldout.perplexity` \| \[12.5 nats\]", page)
    assert "`toy/validate.heldout.perplexity`: train longer" in page and "words/tokenize" not in page


def test_what_nobody_recorded_is_said_to_be_unknown_or_not_measured(cards):
    page = cards()["toy.md"]
    for field in ("Developed by", "License", "Carbon Emitted", "Bias"):
        assert f"- **{field}:** Unknown" in page
    assert "- **Throughput:** not measured" in page


def test_a_breakdown_by_licence_or_language_is_told(cards, source):
    tables = [AuditTable("by_licence", "by licence", ["licence", "records"], [["PSF-2.0", 5], ["unknown", 2]])]
    tables.append(AuditTable("by_language", "by language", ["language", "records"], [["en", 6], ["unknown", 1]]))
    page = cards(tokenize=source("words", "tokenize", tables=tables, missing=count(0, "records")))["words.md"]
    assert "- **License:** PSF-2.0, unknown" in page and "| PSF-2.0 | 5 |" in page
    assert "Language(s) (NLP):** en, unknown" in page and DatasetCard(page).data.language == ["en"]


def test_private_data_that_the_filter_found_is_told(cards, source):
    assert "Unknown: nothing looked for it." in cards()["words.md"]
    found = {"private.email": count(3, "finds"), "private.email.records": count(2, "records")}
    assert "`private.email`:** [3 finds]" in cards(filter=source("words", "filter", **found))["words.md"]


def test_a_recipe_that_was_not_trained_has_no_card_of_numbers(cards, absent):
    made = cards(train=absent("toy", "train"), validate=absent("toy", "validate"))
    assert list(made) == ["words.md"]
    half = cards(validate=absent("toy", "validate"))["toy.md"]
    assert "not measured" in half and ModelCard(half).data.eval_results == []


def test_text_of_others_cannot_become_markup_on_a_card(cards, source):
    told = {**TOLD, "recipes.toy.train": {"note": HOSTILE}}
    tables = [AuditTable("sources", "where from", ["source", "records"], [[HOSTILE, 9]])]
    made = cards(
        train=source("toy", "train", provenance={"params": told, "machine": HOSTILE}),
        scrape=source("words", "scrape", tables=tables),
    )
    for page in made.values():
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(page.split("---\n")[2])
        assert "<img" not in rendered and 'href="http' not in rendered and "<h1>heading" not in rendered
        assert "<img src=x onerror=alert()>" in html.unescape(rendered)
