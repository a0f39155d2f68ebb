"""Test model and dataset cards with the Hub's own reader: every number is cited, missing values are stated."""

import html
import re
from pathlib import Path

import pytest
from huggingface_hub import DatasetCard, ModelCard
from markdown_it import MarkdownIt

from provenlm.core.audit import AuditTable, Metric
from provenlm.reporting.dataset_card import size_category
from provenlm.reporting.render import render_report

CITATION = re.compile(r'\[((?:\\.|[^\]\\])*)\]\(([^ )]+) "((?:\\.|[^"\\])*)"\)')
CHECKS = {
    "toy/validate.val.perplexity": {"expect": "< 10", "hint": "train longer"},
    "words/tokenize.missing": {"expect": "== 0", "hint": "look for the lost records"},
}
SECTIONS = {
    "recipes.toy.model": {"arch": "moe", "hidden_size": 16},
    "recipes.toy.corpus": "words",
    "recipes.toy.train": {"steps": 7},
}
HOSTILE = "<img src=x onerror=alert()>|[x](http://evil)\n# heading"


def count(value: int | float | str, unit: str) -> Metric:
    return Metric(value, unit, "a count", "counted")


@pytest.fixture
def cards(make_audit_file, make_missing_file):
    """Call `cards(**more)`: render the cards by name; a keyword replaces the audit of its stage."""

    def cards(**more):
        audit_files = {
            "scrape": make_audit_file("words", "scrape", tables=[AuditTable("sources", "sources of the records", ["source", "records"], [["a", 9]])], records=count(9, "records")),
            "filter": make_audit_file("words", "filter"),
            "dedupe": make_audit_file("words", "dedupe", records__unique=count(7, "records")),
            "tokenize": make_audit_file(
                "words",
                "tokenize",
                documents__train=count(6, "documents"),
                bytes__train=count(60, "bytes"),
                documents__val=count(1, "documents"),
                bytes__val=count(10, "bytes"),
                missing=count(0, "records"),
            ),
            "train": make_audit_file("toy", "train", provenance={"params": SECTIONS, "device": "cpu", "versions": {"torch": "9.9"}}, steps=count(7, "steps")),
            "validate": make_audit_file("toy", "validate", val__perplexity=12.5, params__total=count(4624, "parameters")),
        } | more  # fmt: skip
        files = render_report(
            "proof", "A proof", list(audit_files.values()), make_missing_file("proof", "report"), ["standard", CHECKS], "w", None
        ).files
        return {name.removeprefix("proof_cards/"): data.decode() for name, data in files.items() if "_cards/" in name}

    return cards


def test_there_is_a_card_for_each_recipe_and_each_corpus(cards):
    assert list(cards()) == ["words.md", "toy.md"]


def test_the_page_links_to_the_cards(make_audit_file, make_missing_file):
    files = render_report(
        "proof", "A proof", [make_audit_file("toy", "train")], make_missing_file("proof", "report"), {}, "w", None
    ).files
    assert "[toy](proof_cards/toy.md)" in files["proof.md"].decode() and "proof_cards/toy.md" in files


def test_the_hub_reads_the_results_of_a_model_with_their_source(cards):
    metadata = ModelCard(cards()["toy.md"]).data
    (result,) = metadata.eval_results
    assert (result.metric_type, result.metric_value, result.dataset_name) == ("val.perplexity", 12.5, "words")
    assert (result.source_name, result.source_url) == ("toy/validate", "../audits/toy/validate.json")
    assert (metadata.license, metadata.datasets, metadata.tags) == ("unknown", ["words"], ["provenlm", "moe"])


def test_the_hub_reads_the_splits_and_size_category_of_a_dataset(cards):
    metadata = DatasetCard(cards()["words.md"]).data.to_dict()
    train, validation = metadata["dataset_info"]["splits"]
    assert (train["num_examples"], train["num_bytes"], validation["num_examples"]) == (6, 60, 1)
    assert (metadata["dataset_info"]["dataset_size"], metadata["size_categories"]) == (70, ["n<1K"])


@pytest.mark.parametrize(
    ("num_records", "category"),
    [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (99_999, "10K<n<100K"), (100_000, "100K<n<1M"), (10**9, "1B<n<10B")],
)
def test_size_categories_are_those_of_the_hub(num_records, category):
    assert size_category(num_records) == category


def test_every_number_of_a_card_is_cited(cards):
    for page in cards().values():
        content = page.split("---\n")[2]
        cited = CITATION.findall(content)
        assert cited and all(target.startswith("../audits/") for _, target, _ in cited)
        table_rows = [line for line in content.splitlines() if line.startswith("| a ")]  # rows from an audit
        rest = "\n".join(line for line in CITATION.sub("", content).splitlines() if line not in table_rows)
        rest = re.sub(r"`[^`]*`|\*\*(7|16)\*\*|torch 9\.9", "", rest)  # thresholds, configuration and versions are text of an audit
        assert not re.search(r"\d", rest), rest


def test_a_card_shows_each_check_with_its_status_and_hint(cards):
    page = cards()["toy.md"]
    assert re.search(r"\| \*\*FAIL\*\* \| `validate` `val.perplexity` \| \[12.5 nats\]", page)
    assert "`toy/validate.val.perplexity`: train longer" in page and "words/tokenize" not in page


def test_a_card_says_unknown_or_not_measured_for_missing_values(cards):
    page = cards()["toy.md"]
    for field in ("Developed by", "License", "Carbon Emitted", "Bias"):
        assert f"- **{field}:** Unknown" in page
    assert "- **Throughput:** not measured" in page


def test_a_card_shows_breakdowns_by_license_and_language(cards, make_audit_file):
    tables = [AuditTable("by_license", "by license", ["license", "records"], [["PSF-2.0", 5], ["unknown", 2]])]
    tables.append(AuditTable("by_language", "by language", ["language", "records"], [["en", 6], ["unknown", 1]]))
    page = cards(tokenize=make_audit_file("words", "tokenize", tables=tables, missing=count(0, "records")))["words.md"]
    assert "- **License:** PSF-2.0, unknown" in page and "| PSF-2.0 | 5 |" in page
    assert "Language(s) (NLP):** en, unknown" in page and DatasetCard(page).data.language == ["en"]


def test_a_card_shows_the_personal_data_that_the_filter_found(cards, make_audit_file):
    assert "Unknown: the filter for personal data was not enabled." in cards()["words.md"]
    pii_metrics = {"pii.email": count(3, "matches"), "pii.email.records": count(2, "records")}
    assert "`pii.email`:** [3 matches]" in cards(filter=make_audit_file("words", "filter", **pii_metrics))["words.md"]


def test_a_recipe_without_audits_has_no_card(cards, make_missing_file):
    rendered_cards = cards(train=make_missing_file("toy", "train"), validate=make_missing_file("toy", "validate"))
    assert list(rendered_cards) == ["words.md"]
    untested = cards(validate=make_missing_file("toy", "validate"))["toy.md"]
    assert "not measured" in untested and ModelCard(untested).data.eval_results == []


def test_a_card_has_no_numbers_of_models_that_were_not_trained(cards, make_audit_file):
    shapes = {"params.total": count(4624, "parameters"), "params.reference_models.huge.total": count(9_760_195_584, "parameters")}
    checks = dict.fromkeys(shapes, ("> 0", "look at the shape"))
    failed = {"params.reference_models.other.total": ("< 0", "another shape")}
    shapes["params.reference_models.other.total"] = count(222_994_944, "parameters")
    shapes["val.perplexity"] = count(12.5, "")
    page = cards(validate=make_audit_file("toy", "validate", checks=checks | failed, **shapes))["toy.md"]
    assert "4,624" in page and "9,760" not in page and "222,994" not in page and "another shape" not in page
    assert [result.metric_type for result in ModelCard(page).data.eval_results] == ["val.perplexity", "params.total"]


def test_a_card_says_why_a_metric_does_not_apply(cards, make_audit_file):
    page = cards(validate=make_audit_file("toy", "validate", not_applicable={"val": "the validation split is empty"}))["toy.md"]
    assert "not applicable (the validation split is empty)" in page


def test_the_cards_of_the_default_report_miss_no_metric():
    cards = Path(__file__).resolve().parents[2] / "reports" / "docs_verification_cards"
    assert [path.name for path in cards.iterdir() if "not measured" in path.read_text(encoding="utf-8")] == []


def test_a_card_lists_the_resolved_settings(cards, make_audit_file):
    config = [["train", "max_steps", 7, False], ["train", "seed", 0, True]]
    page = cards(train=make_audit_file("toy", "train", config=config))["toy.md"]
    assert "max\\_steps **7** · seed **0**" in page


def test_external_text_cannot_become_markup_on_a_card(cards, make_audit_file):
    sections = {**SECTIONS, "recipes.toy.train": {"note": HOSTILE}}
    tables = [AuditTable("sources", "sources of the records", ["source", "records"], [[HOSTILE, 9]])]
    rendered_cards = cards(
        train=make_audit_file("toy", "train", provenance={"params": sections, "machine": HOSTILE}),
        scrape=make_audit_file("words", "scrape", tables=tables),
    )
    for page in rendered_cards.values():
        rendered = MarkdownIt("commonmark", {"html": True}).enable("table").render(page.split("---\n")[2])
        assert "<img" not in rendered and 'href="http' not in rendered and "<h1>heading" not in rendered
        assert "<img src=x onerror=alert()>" in html.unescape(rendered)
