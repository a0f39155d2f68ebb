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

from comparisons.interleaved_timing import compare, keep, show
from lxml import etree
from markdown_it import MarkdownIt

from provenlm.scraping.extraction import html as extract
from provenlm.scraping.extraction.main_content import main_text

LEAST, MOST = 1500, 60_000  # characters of a description
BLOCKS = {"p", "div", "li", "dt", "dd", "td", "th", "tr", "pre", "h1", "h2", "h3", "h4", "br", "section", "ul", "ol", "dl", "table"}
SKIPPED = [
    "nav", ".headerlink", ".sphinxsidebar", ".navheader", ".navfooter", ".toc", "#toc", ".related", ".breadcrumb", ".breadcrumbs", "script",
    "style", "noscript", "aside", "form", "button", "header", "footer", "[role=navigation]",
]  # fmt: skip
GENERATORS = ("sphinx", "docbook", "mkdocs", "docusaurus", "asciidoctor", "doxygen")
FRAMES = {
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
PLACED = {
    "python3*/html": ("//div[@role='main']", "headerlink"),
    "python-django-doc/html": ("//div[@id='bd']//div[@class='yui-g']", "headerlink"),
    "postgresql-doc-*/html": ("//body/div[not(starts-with(@class, 'nav'))]", "toc"),
    "debian-handbook/html/en-US": ("//body/div[not(contains(@class, 'nav'))] | //body/section", "toc"),
    "git-doc": ("//div[@id='header'] | //div[@id='content']", "toc"),
}


@dataclass(frozen=True)
class Gold:
    """A page, the text that should come out, and its lines of code."""

    page: str
    text: str
    code: tuple[str, ...]


def golds(frame: str, most: int) -> list[Gold]:
    """Pages whose text is known. Descriptions that hold HTML of their own are left out: what of that is text is a matter of opinion."""
    found, markdown = [], MarkdownIt("commonmark").enable("table")
    for package in sorted(metadata.distributions(), key=lambda item: str(item.metadata["Name"]).lower()):
        said = package.metadata
        source = said.get_payload() if "markdown" in str(said["Description-Content-Type"]) else ""  # type: ignore[attr-defined]
        source = source or str(said["Description"] or "") if "markdown" in str(said["Description-Content-Type"]) else ""
        tokens = markdown.parse(source) if LEAST <= len(source) <= MOST else []
        inner = [child for token in tokens for child in token.children or ()]
        if not tokens or any(token.type in ("html_block", "html_inline") for token in [*tokens, *inner]):
            continue
        blocks = [
            token.content if token.type in ("fence", "code_block") else "".join(_words(child) for child in token.children or ())
            for token in tokens
            if token.type in ("fence", "code_block", "inline")
        ]
        code = tuple(
            line for token in tokens if token.type in ("fence", "code_block") for line in token.content.splitlines() if line.strip()
        )
        links = "".join(
            f'<li><a href="/{n}">{html.escape(word)}</a></li>' for n, word in enumerate(dict.fromkeys(source.split()[:40]))
        )
        page = FRAMES[frame].format(title=html.escape(str(said["Name"])), body=markdown.render(source), links=links)
        found.append(Gold(page, "\n".join(blocks), code))
    return found[:most]


def placed(docs: Path, most: int) -> list[Gold]:
    """Real pages whose content stands in a known element; `most` of each kind, in a mixed order that is always the same."""
    found = []
    for pattern, (where, without) in PLACED.items():
        paths = sorted(path for folder in sorted(docs.glob(pattern)) if not folder.is_symlink() for path in folder.rglob("*.html*"))
        golds = []
        for path in random.Random(0).sample(paths, len(paths)):
            page = path.read_text("utf-8", "replace") if path.suffix == ".html" or ".html.en" in path.name else ""
            contents = etree.fromstring(page.encode(), etree.HTMLParser(encoding="utf-8")).xpath(where) if page.strip() else []
            for content in contents:
                for tag in content.xpath(f".//*[contains(concat(' ', @class, ' '), ' {without} ')] | .//script | .//style"):
                    parent, before = tag.getparent(), tag.getprevious()
                    if before is not None:
                        before.tail = (before.tail or "") + (tag.tail or "")
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
                golds.append(Gold(page, text, code))
            if len(golds) == most:
                break
        found += golds
    return found


def _strings(content: etree._Element) -> Iterator[tuple[etree._Element, str]]:
    """Every text in an element, with the element whose beginning or end stands before it."""
    for event, tag in etree.iterwalk(content, events=("start", "end")):
        text = tag.text if event == "start" else tag.tail if tag is not content else ""
        if text:
            yield tag, text


def _words(token: object) -> str:
    kind, content = getattr(token, "type", ""), getattr(token, "content", "")
    return " " if kind in ("softbreak", "hardbreak") else content if kind in ("text", "code_inline") else ""


def shingles(text: str) -> set[tuple[str, ...]]:
    """Its overlapping pieces of four words."""
    words = re.findall(r"\w+", text.lower())
    return {tuple(words[i : i + 4]) for i in range(len(words) - 3)}


def score(extractor: Callable[[str], str], pages: Sequence[Gold]) -> tuple[float, float, float, float]:
    """Mean precision, recall and F1 of shingles over pages; the share of code lines that come out to the blank."""
    measured = []
    kept = lines = 0
    for gold in pages:
        out = extractor(gold.page)
        wanted, got = shingles(gold.text), shingles(out)
        common = len(wanted & got)
        precision, recall = common / max(1, len(got)), common / max(1, len(wanted))
        measured.append((precision, recall, 2 * precision * recall / max(1e-9, precision + recall)))
        found = {line.rstrip() for line in out.splitlines()}
        kept += sum(line.rstrip() in found for line in gold.code)
        lines += len(gold.code)
    return *(statistics.mean(column) for column in zip(*measured, strict=True)), kept / max(1, lines)  # type: ignore[return-value]


def extractors() -> dict[str, Callable[[str], str]]:
    """Ours first: the whole reading, with links and facts, and what the peers do, the text alone. Then those that are installed."""
    ways: dict[str, Callable[[str], str]] = {
        "ours, with links and facts": lambda page: extract.read(page, "http://h/").text,
        "ours, text alone": lambda page: main_text(extract.parsed(page)),
    }
    if importlib.util.find_spec("trafilatura"):
        from trafilatura import extract as trafilatura

        ways["trafilatura"] = lambda page: trafilatura(page, include_tables=True) or ""
        ways["trafilatura, fast"] = lambda page: trafilatura(page, include_tables=True, fast=True) or ""
    if importlib.util.find_spec("resiliparse"):
        from resiliparse.extract.html2text import extract_plain_text

        ways["resiliparse, main content"] = lambda page: extract_plain_text(page, main_content=True)
        ways["resiliparse, with a skip list"] = lambda page: extract_plain_text(page, main_content=False, skip_elements=SKIPPED)
    if {"trafilatura, fast", "resiliparse, with a skip list"} <= ways.keys():
        documentation, other = ways["resiliparse, with a skip list"], ways["trafilatura, fast"]
        ways["the two by page type"] = lambda page: (documentation if is_documentation(page) else other)(page)
    return ways


def is_documentation(page: str) -> bool:
    """Does it hold code in several places, or name a generator of documentation at its beginning?"""
    return page.count("<pre") > 1 or any(name in page[:4096].lower() for name in GENERATORS)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="12 pages of each frame, 1 round instead of 3")
    parser.add_argument("--docs", type=Path, default=Path("/usr/share/doc"), help="where packages put their documentation")
    parser.add_argument("--json", type=Path, help="also write the tables here")
    asked = parser.parse_args()
    ways, tables, facts = extractors(), [], {}
    sets = {frame: golds(frame, 12 if asked.quick else 60) for frame in FRAMES}
    sets["documentation of packages"] = placed(asked.docs, 4 if asked.quick else 40)
    for name, pages in sets.items():
        if not pages:
            print(f"\n{name}: left out, {asked.docs} holds none that is known")
            continue
        lines = compare(
            f"extraction: {len(pages)} pages, {name}",
            {way: partial(_all, extractor, pages) for way, extractor in ways.items()},
            1 if asked.quick else 3,
        )
        show(lines)
        print(f"  {'':34}{'precision':>10}{'recall':>8}{'F1':>8}{'code':>8}{'pages/CPU s':>13}")
        for line in lines:
            quality = score(ways[line.way], pages)
            facts[f"{name}: {line.way}"] = dict(zip(("precision", "recall", "f1", "code"), quality, strict=True))
            numbers = "".join(f"{number:8.3f}" for number in quality[1:])
            print(f"  {line.way:34}{quality[0]:10.3f}{numbers}{1e3 * len(pages) / line.cpu_ms:13.0f}", flush=True)
        tables += lines
    if asked.json:
        keep(asked.json, tables, facts)


def _all(way: Callable[[str], str], pages: Sequence[Gold]) -> None:
    for gold in pages:
        way(gold.page)


if __name__ == "__main__":
    sys.exit(main())
