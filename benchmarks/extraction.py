"""Measure precision, recall and speed of main-text extractors on known pages.

The pages are Markdown descriptions of installed packages, rendered to HTML and put into three page templates, so that the expected text
is known: a documentation page, an article, and a page without semantic elements. The templates are ours, so only the comparison between
extractors counts. A fourth set is the documentation of Debian packages (python3-doc, python-django-doc, postgresql-doc, debian-handbook,
git-doc), if installed or unpacked below `--docs`: the expected text is the element into which the generator of these pages puts their
content. Peers run if they are installed (`pip install -e '.[bench]'`).
"""

import argparse
import html
import importlib.util
import random
import re
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from comparisons import results
from comparisons.interleaved_timing import compare_in_turns, print_table
from comparisons.results import ResultRow
from lxml import etree
from markdown_it import MarkdownIt

from provenlm.scraping.extraction import html as extract
from provenlm.scraping.extraction.main_content import extract_main_text

MIN_CHARS, MAX_CHARS = 1500, 60_000  # length limits of a description
BLOCKS = {"p", "div", "li", "dt", "dd", "td", "th", "tr", "pre", "h1", "h2", "h3", "h4", "br", "section", "ul", "ol", "dl", "table"}
SKIPPED_SELECTORS = [
    "nav", ".headerlink", ".sphinxsidebar", ".navheader", ".navfooter", ".toc", "#toc", ".related", ".breadcrumb", ".breadcrumbs", "script",
    "style", "noscript", "aside", "form", "button", "header", "footer", "[role=navigation]",
]  # fmt: skip
GENERATORS = ("sphinx", "docbook", "mkdocs", "docusaurus", "asciidoctor", "doxygen")
PAGE_TEMPLATES = {
    "documentation": """<!DOCTYPE html><html lang="en"><head><title>{title}</title></head><body>
<div class="related" role="navigation"><h3>Navigation</h3><ul><li><a href="/i">index</a></li><li><a href="/n">next</a> |</li></ul></div>
<div class="document"><div class="documentwrapper"><div class="bodywrapper"><div class="body" role="main">{body}</div></div></div>
<div class="sphinxsidebar" role="navigation"><h3>Table of Contents</h3><ul>{links}</ul>
<form action="/s"><input name="q"><input type="submit" value="Go"></form></div></div>
<div class="footer" role="contentinfo">Copyright 2026. Created using a generator of documentation.</div></body></html>""",
    "article": """<!DOCTYPE html><html lang="en"><head><title>{title}</title></head><body>
<header><nav><ul>{links}</ul></nav><p>The daily page, read by many</p></header><div class="cookie-banner"><p>We value your privacy</p></div>
<main><article>{body}</article></main><aside><h3>Read next</h3><ul>{links}</ul></aside>
<footer><p>All rights reserved</p><ul>{links}</ul></footer></body></html>""",
    "unnamed": """<!DOCTYPE html><html lang="en"><head><title>{title}</title></head><body>
<div id="topbar"><a href="/">Home</a> <a href="/a">About</a> <a href="/s">Shop</a></div><table><tr><td><div class="menu-left"><ul>{links}</ul></div></td>
<td><div class="text">{body}</div></td></tr></table><div class="site-footer">All rights reserved <a href="/p">Privacy</a></div></body></html>""",
}


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


def synthetic_pages(template: str, max_pages: int) -> list[GroundTruth]:
    """Render package descriptions as pages.

    Those that contain HTML are skipped, because their expected text is ambiguous.
    """
    truths, markdown = [], MarkdownIt("commonmark").enable("table")
    for package in sorted(metadata.distributions(), key=lambda item: str(item.metadata["Name"]).lower()):
        fields = package.metadata
        source = fields.get_payload() if "markdown" in str(fields["Description-Content-Type"]) else ""  # type: ignore[attr-defined]
        source = source or str(fields["Description"] or "") if "markdown" in str(fields["Description-Content-Type"]) else ""
        tokens = markdown.parse(source) if MIN_CHARS <= len(source) <= MAX_CHARS else []
        inner = [child for token in tokens for child in token.children or ()]
        if not tokens or any(token.type in ("html_block", "html_inline") for token in [*tokens, *inner]):
            continue
        blocks = [
            token.content
            if token.type in ("fence", "code_block")
            else "".join(_inline_text(child) for child in token.children or ())
            for token in tokens
            if token.type in ("fence", "code_block", "inline")
        ]
        code = tuple(
            line for token in tokens if token.type in ("fence", "code_block") for line in token.content.splitlines() if line.strip()
        )
        links = "".join(
            f'<li><a href="/{n}">{html.escape(word)}</a></li>' for n, word in enumerate(dict.fromkeys(source.split()[:40]))
        )
        page = PAGE_TEMPLATES[template].format(title=html.escape(str(fields["Name"])), body=markdown.render(source), links=links)
        truths.append(GroundTruth(page, "\n".join(blocks), code))
    return truths[:max_pages]


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


def _inline_text(token: object) -> str:
    kind, content = getattr(token, "type", ""), getattr(token, "content", "")
    return " " if kind in ("softbreak", "hardbreak") else content if kind in ("text", "code_inline") else ""


def word_ngrams(text: str) -> set[tuple[str, ...]]:
    """Return the overlapping 4-grams of words."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


def score_extractor(extractor: Callable[[str], str], pages: Sequence[GroundTruth]) -> tuple[float, float, float, float]:
    """Return mean precision, recall and F1 over pages, and the verbatim code rate.

    Scores count word 4-grams; the rate is the fraction of code lines in the text unchanged.
    """
    page_scores = []
    kept_lines = total_lines = 0
    for truth in pages:
        out = extractor(truth.page)
        expected, extracted = word_ngrams(truth.text), word_ngrams(out)
        common = len(expected & extracted)
        precision, recall = common / max(1, len(extracted)), common / max(1, len(expected))
        page_scores.append((precision, recall, 2 * precision * recall / max(1e-9, precision + recall)))
        output_lines = {line.rstrip() for line in out.splitlines()}
        kept_lines += sum(line.rstrip() in output_lines for line in truth.code)
        total_lines += len(truth.code)
    return *(statistics.mean(column) for column in zip(*page_scores, strict=True)), kept_lines / max(1, total_lines)  # type: ignore[return-value]


def make_extractors() -> dict[str, Callable[[str], str]]:
    """Return our extractor, with and without links and metadata, and the peers."""
    extract_functions: dict[str, Callable[[str], str]] = {
        "ours, with links and metadata": lambda page: extract.read_html(page, "http://h/").text,
        "ours, text only": lambda page: extract_main_text(extract.parse_html(page)),
    }
    if importlib.util.find_spec("trafilatura"):
        from trafilatura import extract as trafilatura

        extract_functions["trafilatura"] = lambda page: trafilatura(page, include_tables=True) or ""
        extract_functions["trafilatura, fast"] = lambda page: trafilatura(page, include_tables=True, fast=True) or ""
    if importlib.util.find_spec("resiliparse"):
        from resiliparse.extract.html2text import extract_plain_text

        extract_functions["resiliparse, main content"] = lambda page: extract_plain_text(page, main_content=True)
        extract_functions["resiliparse, with a skip list"] = lambda page: extract_plain_text(
            page, main_content=False, skip_elements=SKIPPED_SELECTORS
        )
    if {"trafilatura, fast", "resiliparse, with a skip list"} <= extract_functions.keys():
        documentation, general = extract_functions["resiliparse, with a skip list"], extract_functions["trafilatura, fast"]
        extract_functions["the two by page type"] = lambda page: (documentation if is_documentation(page) else general)(page)
    return extract_functions


def is_documentation(page: str) -> bool:
    """Return whether a page has several code blocks or names a docs generator."""
    return page.count("<pre") > 1 or any(name in page[:4096].lower() for name in GENERATORS)


def compare_extractors(name: str, pages: Sequence[GroundTruth], rounds: int) -> list[ResultRow]:
    """Time and score all extractors on one set of pages."""
    extractors = make_extractors()
    calls = {label: partial(extract_all, extractor, pages) for label, extractor in extractors.items()}
    timings = compare_in_turns(name, calls, rounds)
    print_table(timings, f"{len(pages)} pages")
    print(f"  {'':34}{'precision':>10}{'recall':>8}{'F1':>8}{'code':>8}{'pages/CPU s':>13}")
    rows = []
    for timing in timings:
        precision, *rest = score_extractor(extractors[timing.implementation], pages)
        speed = 1e3 * len(pages) / timing.cpu_ms
        numbers = "".join(f"{number:8.3f}" for number in rest)
        print(f"  {timing.implementation:34}{precision:10.3f}{numbers}{speed:13.0f}", flush=True)
        prefix = f"{name}: {timing.implementation}"
        rows.append(ResultRow(f"{prefix}, speed", speed, "pages/CPU s", 1 / timing.cpu_ratio))
        metrics = zip(("precision", "recall", "F1", "code lines kept"), (precision, *rest), strict=True)
        rows += [ResultRow(f"{prefix}, {metric}", value, "fraction") for metric, value in metrics]
    return rows


def extract_all(extractor: Callable[[str], str], pages: Sequence[GroundTruth]) -> None:
    """Extract every page."""
    for truth in pages:
        extractor(truth.page)


def main() -> None:
    """Compare extractors on all pages and write benchmarks/results/extraction.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "12 pages of each template and 1 round instead of 3")
    parser.add_argument("--docs", type=Path, default=Path("/usr/share/doc"), help="folder of the documentation of packages")
    options = parser.parse_args()
    page_sets = {template: synthetic_pages(template, 12 if options.quick else 60) for template in PAGE_TEMPLATES}
    page_sets["documentation of packages"] = documentation_pages(options.docs, 4 if options.quick else 40)
    rows: list[ResultRow] = []
    for name, pages in page_sets.items():
        if pages:
            rows += compare_extractors(name, pages, 1 if options.quick else 3)
        else:
            print(f"\n{name}: skipped, {options.docs} has no known documentation")
    results.save_results("extraction", rows, options)


if __name__ == "__main__":
    main()
