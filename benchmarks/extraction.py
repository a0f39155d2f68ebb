"""Measure precision, recall and speed of main-text extractors on pages that others made.

Articles: the public article-extraction-benchmark of Scrapinghub (github.com/scrapinghub/article-extraction-benchmark, MIT: 181 pages of
news and blogs with their text), cloned into this folder; `--pages FOLDER` names another copy. Scores are those of that
benchmark: 4-word shingles, counted; precision and recall are means over pages, F1 is that of the means. The mean F1 of pages is given,
too.
Documentation: packages of Debian (python3-doc, python-django-doc, postgresql-doc, debian-handbook, git-doc), if installed or unpacked
below `--docs`. The expected text is that of the element into which the generator of these pages puts their content, with its forms
and buttons, without the marks of headings (¶) and tables of contents.
A set whose folder is missing is NOT RUN.
"""

import argparse
import gzip
import importlib.util
import json
import logging
import random
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from comparisons import results
from comparisons.interleaved_timing import compare_in_turns, print_table
from comparisons.results import ResultRow
from lxml import etree
from trafilatura import extract as trafilatura

from provenlm.scraping.extraction import html
from provenlm.scraping.extraction.page_cleaning import parse_page

PAGES = Path(__file__).parent / "article-extraction-benchmark"
BLOCKS = {"p", "div", "li", "dt", "dd", "td", "th", "tr", "pre", "h1", "h2", "h3", "h4", "br", "section", "ul", "ol", "dl", "table"}
# folder pattern -> XPath of the content element, and the class of elements in it that are not content
CONTENT_XPATHS = {
    "python3*/html": ("//div[@role='main']", "headerlink"),
    "python-django-doc/html": ("//div[@id='bd']//div[@class='yui-g']", "headerlink"),
    "postgresql-doc-*/html": ("//body/div[not(starts-with(@class, 'nav'))]", "toc"),
    "debian-handbook/html/en-US": ("//body/div[not(contains(@class, 'nav'))] | //body/section", "toc"),
    "git-doc": ("//div[@id='header'] | //div[@id='content']", "toc"),
}


@dataclass(frozen=True)
class GroundTruth:
    """Hold a page, its expected text and its expected lines of code."""

    page: str
    text: str
    code: tuple[str, ...]


def documentation_pages(docs: Path, max_pages: int) -> list[GroundTruth]:
    """Read real pages whose content is in a known element, in a fixed random order.

    At most `max_pages` of each kind are read.
    """
    truths = []
    for pattern, (content_xpath, excluded_class) in CONTENT_XPATHS.items():
        paths = sorted(path for folder in sorted(docs.glob(pattern)) if not folder.is_symlink() for path in folder.rglob("*.html*"))
        folder_truths = []
        for path in random.Random(0).sample(paths, len(paths)):
            page = path.read_text("utf-8", "replace") if path.suffix == ".html" or ".html.en" in path.name else ""
            contents = (
                etree.fromstring(page.encode(), etree.HTMLParser(encoding="utf-8")).xpath(content_xpath) if page.strip() else []
            )
            for content in contents:
                for tag in content.xpath(f".//*[contains(concat(' ', @class, ' '), ' {excluded_class} ')] | .//script | .//style"):
                    parent, previous = tag.getparent(), tag.getprevious()
                    if previous is not None:
                        previous.tail = (previous.tail or "") + (tag.tail or "")
                    else:
                        parent.text = (parent.text or "") + (tag.tail or "")
                    parent.remove(tag)
            text = "\n".join("".join(f"{' ' * (e.tag in BLOCKS)}{t}" for e, t in _strings(content)) for content in contents)
            code = tuple(
                line
                for content in contents
                for pre in content.iter("pre")
                for line in "".join(pre.itertext()).splitlines()
                if line.strip()
            )
            if len(text.split()) >= 100:
                folder_truths.append(GroundTruth(page, text, code))
            if len(folder_truths) == max_pages:
                break
        truths += folder_truths
    return truths


def _strings(content: etree._Element) -> Iterator[tuple[etree._Element, str]]:
    """Yield every text in an element, with the element whose start or end precedes it."""
    for event, tag in etree.iterwalk(content, events=("start", "end")):
        text = tag.text if event == "start" else tag.tail if tag is not content else ""
        if text:
            yield tag, text


def public_pages(folder: Path, max_pages: int) -> list[GroundTruth]:
    """Read pages of the public benchmark, in the order of their names."""
    truths = json.loads((folder / "ground-truth.json").read_text("utf-8"))
    pages = []
    for name in sorted(truths)[:max_pages]:
        path = next((folder / "html").glob(f"{name}.html*"))
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        pages.append(GroundTruth(content.decode("utf-8", "replace"), truths[name]["articleBody"], ()))
    return pages


def count_shingles(text: str) -> Counter[tuple[str, ...]]:
    """Count the overlapping 4-grams of words; a shorter text is one shingle."""
    words = re.findall(r"\w+", text)
    return Counter(tuple(words[i : i + 4]) for i in range(max(1, len(words) - 3)))


@dataclass(frozen=True)
class Scores:
    """Hold the scores of an extractor on a set of pages."""

    precision: float
    recall: float
    f1: float  # of mean precision and mean recall
    page_f1: float  # mean over pages
    code: float | None  # fraction of code lines that are in the text unchanged


def score_extractor(extractor: Callable[[str], str], pages: Sequence[GroundTruth]) -> Scores:
    """Return the scores of an extractor on pages."""
    page_scores, kept_lines, total_lines = [], 0, 0
    for truth in pages:
        text = extractor(truth.page)
        expected, extracted = count_shingles(truth.text), count_shingles(text)
        common = (expected & extracted).total()
        precision, recall = common / extracted.total(), common / expected.total()
        page_scores.append((precision, recall, _f1(precision, recall)))
        lines = {line.rstrip() for line in text.splitlines()}
        kept_lines += sum(line.rstrip() in lines for line in truth.code)
        total_lines += len(truth.code)
    precision, recall, page_f1 = (statistics.mean(column) for column in zip(*page_scores, strict=True))
    return Scores(precision, recall, _f1(precision, recall), page_f1, kept_lines / total_lines if total_lines else None)


def _f1(precision: float, recall: float) -> float:
    return 2 * precision * recall / max(1e-9, precision + recall)


def make_extractors() -> dict[str, Callable[[str], str]]:
    """Return our extractor, with and without links and metadata, and the libraries as they come."""
    extractors: dict[str, Callable[[str], str]] = {
        "ours, with links and metadata": lambda page: html.read_html(page, "http://h/").text,
        "ours, text only": lambda page: html.read_main_text(parse_page(page)),
        "trafilatura, fast": lambda page: trafilatura(page, include_comments=False, fast=True) or "",
        "trafilatura": lambda page: trafilatura(page, include_comments=False) or "",
        "trafilatura, precision": lambda page: trafilatura(page, include_comments=False, favor_precision=True) or "",
        "trafilatura, recall": lambda page: trafilatura(page, include_comments=False, favor_recall=True) or "",
    }
    if importlib.util.find_spec("resiliparse"):
        from resiliparse.extract.html2text import extract_plain_text

        extractors["resiliparse, main content"] = lambda page: extract_plain_text(page, main_content=True)
        extractors["resiliparse, all text"] = lambda page: extract_plain_text(page, main_content=False)
    return extractors


def compare_extractors(name: str, pages: Sequence[GroundTruth], rounds: int) -> list[ResultRow]:
    """Time and score all extractors on one set of pages."""
    extractors = make_extractors()
    calls = {label: partial(extract_all, extractor, pages) for label, extractor in extractors.items()}
    timings = compare_in_turns(name, calls, rounds)
    print_table(timings, f"{len(pages)} pages")
    print(f"  {'':34}{'precision':>10}{'recall':>8}{'F1':>8}{'page F1':>9}{'code':>8}{'pages/CPU s':>13}")
    rows = []
    for timing in timings:
        scores = score_extractor(extractors[timing.implementation], pages)
        speed = 1e3 * len(pages) / timing.cpu_ms
        code = f"{scores.code:8.3f}" if scores.code is not None else f"{'':8}"
        quality = f"{scores.precision:10.3f}{scores.recall:8.3f}{scores.f1:8.3f}{scores.page_f1:9.3f}{code}"
        print(f"  {timing.implementation:34}{quality}{speed:13.0f}", flush=True)
        prefix = f"{name}: {timing.implementation}"
        rows.append(ResultRow(f"{prefix}, speed", speed, "pages/CPU s", 1 / timing.cpu_ratio))
        metrics = {"precision": scores.precision, "recall": scores.recall, "F1": scores.f1, "page F1": scores.page_f1}
        rows += [ResultRow(f"{prefix}, {metric}", value, "fraction") for metric, value in metrics.items()]
        rows += [ResultRow(f"{prefix}, code lines kept", scores.code, "fraction")] if scores.code is not None else []
    return rows


def extract_all(extractor: Callable[[str], str], pages: Sequence[GroundTruth]) -> None:
    """Extract every page."""
    for truth in pages:
        extractor(truth.page)


def main() -> None:
    """Compare extractors on all pages and write benchmarks/results/extraction.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    results.add_arguments(parser, "12 pages of each set and 1 round instead of 3")
    parser.add_argument("--pages", type=Path, default=PAGES, help="folder of the public benchmark: ground-truth.json and html/")
    parser.add_argument("--docs", type=Path, default=Path("/usr/share/doc"), help="folder of the documentation of packages")
    options = parser.parse_args()
    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)
    page_sets = {
        "articles of the public benchmark": public_pages(options.pages, 12 if options.quick else 10_000)
        if (options.pages / "ground-truth.json").is_file()
        else [],
        "documentation of packages": documentation_pages(options.docs, 3 if options.quick else 40),
    }
    rows: list[ResultRow] = []
    for name, pages in page_sets.items():
        if pages:
            rows += compare_extractors(name, pages, 1 if options.quick else 3)
        else:
            print(f"\n{name}: NOT RUN, {'--pages' if 'public' in name else '--docs'} must name a folder with these pages")
    results.save_results("extraction", rows, options)


if __name__ == "__main__":
    main()
