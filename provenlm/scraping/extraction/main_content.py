"""Choose the main content of a cleaned page by its type.

Documentation and short pages are laid out by our own rules, which keep code, tables and definitions; every other page is read by
trafilatura in its fast mode. Characters that trafilatura would drop or collapse pass through it as signs of an undeciphered script
(Linear A), which a page cannot contain.
"""

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from resiliparse.parse.html import ElementNode, HTMLTree

from provenlm.scraping.extraction import text_layout, whitespace
from provenlm.scraping.extraction.page_cleaning import select, text_of

if TYPE_CHECKING:
    from configparser import ConfigParser

GENERATORS = re.compile(
    r"sphinx|docutils|mkdocs|docusaurus|docbook|asciidoc|doxygen|javadoc|jsdoc|typedoc|rustdoc|gitbook|vitepress|vuepress|antora|docfx|"
    r"pdoc|yard|texinfo|makeinfo|latex2html|tex4ht|publican|groff|man2html|starlight|nextra|zensical|quarto|pkgdown|staticrypt|hevea",
    re.IGNORECASE,
)
DOCUMENTATION = (
    ".sphinxsidebar, .sphinxsidebarwrapper, .rst-content, div.bodywrapper, .md-content, .theme-doc-markdown, .bd-article, .memitem, "
    "#docContent, .docstring, .rustdoc, .javadoc, .pytorch-content-left, .devsite-article-body, .highlight-source-shell, .memdoc"
)
ARTICLE = 'meta[property="og:type"][content="article" i], meta[property^="article:"], [itemprop="articleBody"]'
PYDOC_TITLE = "Python: "
MIN_ARTICLE_CHARS = 500  # the statistics of trafilatura need some text
MAX_PLAIN_CHARS, MAX_PLAIN_LINK_RATIO = 1200, 0.05
MIN_INDEX_LINK_RATIO, MAX_LINK_CHARS = 0.95, 40
MAX_LINES_OF_PARAGRAPH = 40
STRUCTURED_TEXT = re.compile(r'"articleBody"|DiscussionForumPosting')
PRE = re.compile(r"<pre\b[^>]*>(.*?)</pre>", re.DOTALL | re.IGNORECASE)
LINE_BREAK = re.compile(r"<br\b[^>]*>")
IMAGE = re.compile(r"<(?:img|source|track|wbr)\b[^>]*>")
TAG = re.compile(r"<[^>]*>")
TABLE_RULE = re.compile(r"\|(?:-{3}\|)+")
ORIGINALS = (
    " ",
    "\n",
    "\t",
    "&amp;",
    "\u200c",
    "\u200d",
    "\u200e",
    "\u200f",
    "\u2060",
    "\x01",
)  # the last one begins and ends code
SIGNS = tuple(chr(0x10601 + index) for index in range(len(ORIGINALS)))
CODE_SIGNS = str.maketrans(dict(zip(ORIGINALS[:3], SIGNS[:3], strict=True)))
PASSED = tuple(zip(ORIGINALS, SIGNS, strict=True))[3:9]
RESTORED = (*zip(SIGNS, ORIGINALS, strict=True), ("&amp;", "&"), ("\x01", ""), (whitespace.EMPTY_CELL, ""))


def is_documentation(tree: HTMLTree) -> bool:
    """Return whether a page is documentation.

    It was made by a generator of documentation, or has several code blocks and is not marked as an article.
    """
    document = tree.document
    generators = [tag.getattr("content") or "" for tag in select(document, 'meta[name="generator" i]')]
    if any(map(GENERATORS.search, generators)) or (tree.title or "").startswith(PYDOC_TITLE):
        return True
    if select(document, DOCUMENTATION):
        return True
    return len(select(document, "pre")) > 1 and not select(document, ARTICLE)


def structured_scripts(tree: HTMLTree) -> str:
    """Return the JSON-LD scripts that hold the text of an article or name a forum."""
    scripts = select(tree.document, 'script[type="application/ld+json"]')
    return "".join(
        f'<script type="application/ld+json">{text_of(script)}</script>'
        for script in scripts
        if STRUCTURED_TEXT.search(text_of(script))
    )


def extract_main_text(body: ElementNode, documentation: bool, scripts: str = "") -> str:
    """Return the main text of a cleaned body.

    `scripts` are those of `structured_scripts`.
    """
    is_article = not documentation and not _is_plain(body)
    if is_article:
        for element in select(body, "nav, footer"):
            element.remove()
    markup = IMAGE.sub("", body.html.replace("\u00ad", ""))
    text = _extract_article(markup, scripts) if is_article else ""
    return text or text_layout.layout_page(markup)


def _is_plain(body: ElementNode) -> bool:
    """Return whether a page is too short, or has too few links, to hide its content; or is a list of links."""
    num_chars = len("".join(text_of(body).split()))
    if num_chars < MIN_ARTICLE_CHARS:
        return True
    links = select(body, "a")
    if num_chars >= MAX_PLAIN_CHARS and MAX_LINK_CHARS * len(links) < num_chars:
        return False
    link_ratio = sum(len("".join(text_of(link).split())) for link in links) / num_chars
    return link_ratio >= MIN_INDEX_LINK_RATIO or (num_chars < MAX_PLAIN_CHARS and link_ratio <= MAX_PLAIN_LINK_RATIO)


def _extract_article(markup: str, scripts: str) -> str:
    """Return the text of an article as trafilatura chooses it; "" if it finds none."""
    from lxml import html
    from trafilatura import bare_extraction

    parser = html.HTMLParser(encoding="utf-8", remove_comments=True, remove_pis=True, collect_ids=False, default_doctype=False)
    encoded = PRE.sub(_encode_code, _replace_all(markup, PASSED))
    page = f"<html><head>{scripts}</head>{encoded}</html>"
    tree = html.document_fromstring(page.encode("utf-8", "replace"), parser=parser)
    options: dict[str, Any] = {"fast": True, "include_comments": False, "config": _trafilatura_config()}
    document: Any = bare_extraction(tree, **options)
    if document is not None and len(document.body) == 1 and document.text.count("\n") > MAX_LINES_OF_PARAGRAPH:
        # The last resort of trafilatura is all text of a page in one paragraph; its other rules choose less.
        document = bare_extraction(tree, favor_recall=True, **options) or document
    return _paragraphs(document.text) if document is not None else ""


def _encode_code(match: re.Match[str]) -> str:
    code = TAG.sub("", LINE_BREAK.sub("\n", match[1])).replace("&nbsp;", " ").removeprefix("\n").rstrip()
    return f"<pre>{SIGNS[9]}{code.translate(CODE_SIGNS)}{SIGNS[9]}</pre>"


def _paragraphs(text: str) -> str:
    """Separate the paragraphs of trafilatura's text by empty lines, and its cells by bars without a frame."""
    lines: list[str] = []
    previous = ""
    for line in text.split("\n"):
        kind = line.lstrip()[:2] if line.lstrip().startswith(("- ", "| ")) else ""
        if TABLE_RULE.fullmatch(line):
            continue
        if lines and not (kind and kind == previous):
            lines.append("")
        lines.append(line.removeprefix("| ").rstrip(" ").removesuffix(" |").replace("\\|", "|") if kind == "| " else line)
        previous = kind
    code_ends = re.compile(f" *{SIGNS[9]}{SIGNS[9]}? *")
    joined = code_ends.sub(SIGNS[9], "\n".join(lines))
    joined = re.sub(f"(?<=[^\n]){SIGNS[9]}(?=[^\n])", "\n\n", joined)
    return _replace_all(joined, RESTORED).strip("\n")


def _replace_all(text: str, pairs: Iterable[tuple[str, str]]) -> str:
    for old, new in pairs:
        text = text.replace(old, new)
    return text


@lru_cache(maxsize=1)
def _trafilatura_config() -> "ConfigParser":
    import logging

    from trafilatura.settings import use_config

    logging.getLogger("trafilatura").setLevel(logging.CRITICAL)  # it logs every page without an article
    return use_config()
