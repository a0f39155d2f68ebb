"""Nothing in; out, how much of a page's text and code each extractor keeps, how much else, and how many pages a CPU second it reads.

The pages are the Markdown descriptions of installed packages, rendered to HTML and put into three frames, so that the text that should
come out is known: a page of documentation, an article, and one whose parts no element names. The frames are ours: what counts is how the
extractors compare. A fourth set is documentation of Debian packages as it is, where they are installed (python3-doc, python-django-doc,
postgresql-doc, debian-handbook, git-doc) or unpacked below `--docs`: what should come out is the element that the
generator of such pages puts their content into. Peers run where they are installed (`pip install -e '.[bench]'`).
"""

import argparse
import html
import importlib.util
import random
import re
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from pathlib import Path

from comparisons.interleaved_timing import compare_in_turns, print_table, save_json
from lxml import etree
from markdown_it import MarkdownIt

from provenlm.scraping.extraction import html as extract
from provenlm.scraping.extraction.main_content import extract_main_text

MIN_CHARS, MAX_CHARS = 1500, 60_000  # characters of a description
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


# Where generators put the content: of pages below a folder named so, these elements, and what of them is none.
CONTENT_XPATHS = {
    "python3*/html": ("//div[@role='main']", "headerlink"),
    "python-django-doc/html": ("//div[@id='bd']//div[@class='yui-g']", "headerlink"),
    "postgresql-doc-*/html": ("//body/div[not(starts-with(@class, 'nav'))]", "toc"),
    "debian-handbook/html/en-US": ("//body/div[not(contains(@class, 'nav'))] | //body/section", "toc"),
    "git-doc": ("//div[@id='header'] | //div[@id='content']", "toc"),
}


@dataclass(frozen=True)
class GroundTruth:
    """A page, the text that should come out, and its lines of code."""

    page: str
    text: str
    code: tuple[str, ...]


def synthetic_pages(template: str, max_pages: int) -> list[GroundTruth]:
    """Pages whose text is known. Descriptions that hold HTML of their own are left out: what of that is text is a matter of opinion."""
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
    """Real pages whose content stands in a known element; `most` of each kind, in a mixed order that is always the same."""
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
    """Every text in an element, with the element whose beginning or end stands before it."""
    for event, tag in etree.iterwalk(content, events=("start", "end")):
        text = tag.text if event == "start" else tag.tail if tag is not content else ""
        if text:
            yield tag, text


def _inline_text(token: object) -> str:
    kind, content = getattr(token, "type", ""), getattr(token, "content", "")
    return " " if kind in ("softbreak", "hardbreak") else content if kind in ("text", "code_inline") else ""


def word_ngrams(text: str) -> set[tuple[str, ...]]:
    """Its overlapping pieces of four words."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


def score_extractor(extractor: Callable[[str], str], pages: Sequence[GroundTruth]) -> tuple[float, float, float, float]:
    """Mean precision, recall and F1 of shingles over pages; the share of code lines that come out to the blank."""
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
    """Ours first: the whole reading, with links and facts, and what the peers do, the text alone. Then those that are installed."""
    extract_functions: dict[str, Callable[[str], str]] = {
        "ours, with links and facts": lambda page: extract.read_html(page, "http://h/").text,
        "ours, text alone": lambda page: extract_main_text(extract.parse_html(page)),
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
    """Does it hold code in several places, or name a generator of documentation at its beginning?"""
    return page.count("<pre") > 1 or any(name in page[:4096].lower() for name in GENERATORS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="12 pages of each frame, 1 round instead of 3")
    parser.add_argument("--docs", type=Path, default=Path("/usr/share/doc"), help="where packages put their documentation")
    parser.add_argument("--json", type=Path, help="also write the tables here")
    options = parser.parse_args()
    extract_functions, tables, scores = make_extractors(), [], {}
    page_sets = {template: synthetic_pages(template, 12 if options.quick else 60) for template in PAGE_TEMPLATES}
    page_sets["documentation of packages"] = documentation_pages(options.docs, 4 if options.quick else 40)
    for name, pages in page_sets.items():
        if not pages:
            print(f"\n{name}: left out, {options.docs} holds none that is known")
            continue
        timings = compare_in_turns(
            f"extraction: {len(pages)} pages, {name}",
            {label: partial(extract_all, extractor, pages) for label, extractor in extract_functions.items()},
            1 if options.quick else 3,
        )
        print_table(timings)
        print(f"  {'':34}{'precision':>10}{'recall':>8}{'F1':>8}{'code':>8}{'pages/CPU s':>13}")
        for timing in timings:
            quality = score_extractor(extract_functions[timing.implementation], pages)
            scores[f"{name}: {timing.implementation}"] = dict(zip(("precision", "recall", "f1", "code"), quality, strict=True))
            numbers = "".join(f"{number:8.3f}" for number in quality[1:])
            print(f"  {timing.implementation:34}{quality[0]:10.3f}{numbers}{1e3 * len(pages) / timing.cpu_ms:13.0f}", flush=True)
        tables += timings
    if options.json:
        save_json(options.json, tables, scores)


def extract_all(extract_function: Callable[[str], str], pages: Sequence[GroundTruth]) -> None:
    for truth in pages:
        extract_function(truth.page)


if __name__ == "__main__":
    sys.exit(main())
