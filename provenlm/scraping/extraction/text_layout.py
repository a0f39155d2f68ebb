"""Lay out the main element of a cleaned page as text, or its body.

The whitespace of code is kept.
"""

import re
from collections.abc import Mapping, Set
from functools import lru_cache
from typing import NamedTuple

from provenlm.scraping.extraction import whitespace
from provenlm.scraping.extraction.page_cleaning import VOID

FRAMES = {"header", "footer", "aside"}  # boilerplate, unless they are inside the main content
ALWAYS, FRAME = 1, 2
DROPPED_CLASSES = {
    "headerlink", "sphinxsidebar", "navheader", "navfooter", "navbar", "docnav", "toc", "related", "breadcrumb", "breadcrumbs", "sidebar",
    "skip-link", "visually-hidden", "sr-only", "cookie-banner",
}  # fmt: skip
DROPPED_ROLES = {"navigation", "search", "banner", "contentinfo", "complementary", "menu", "menubar", "dialog", "tablist"}
CONTAINERS = {"div", "ul", "ol", "table", "td"}
FRAME_NAMES = {
    "sidebar", "footer", "site-footer", "page-footer", "navigation", "nav", "topbar", "masthead", "menu", "pagination", "pager",
}  # fmt: skip
FRAME_ROLES = {"alert", "alertdialog"}
PARAGRAPHS = {
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre", "section", "article", "main", "figure",
    "hr", "details", "fieldset", "address", "body", "form",
}  # fmt: skip
LINES = {
    "div", "li", "dt", "dd", "tr", "caption", "thead", "tbody", "tfoot", "figcaption", "summary", "center", "header", "footer", "aside",
}  # fmt: skip
OPENING_MARKS = {"br": whitespace.BREAK, "li": whitespace.ITEM, "td": whitespace.CELL, "th": whitespace.CELL}
PREFORMATTED = {"pre", "listing", "xmp", "plaintext"}
CODE = {"code", "tt", "kbd", "samp", "var"}
MAIN_IDS = ("content", "main-content", "main")
MIN_PROSE_CHARS = 100
MIN_MAIN_SHARE, MIN_ARTICLE_SHARE = 0.1, 0.5  # of the prose of a page, in an element that is believed to be its main content
MAX_CACHED_TAG_CHARS = 256
UNUSED_ATTRIBUTES = re.compile(' (?!(?:class|id|role|hidden|aria-hidden|style)=)[^ =]+="[^"]*"')
COMMENT = re.compile("<!--.*?-->", re.DOTALL)
TAG = re.compile("(<[^>]*>)")  # the serializer escapes these signs in attributes
NAME = re.compile("</?([^ />]+)")
ATTRIBUTE = re.compile(' (class|id|role|hidden|aria-hidden|style)="([^"]*)"')
PREFORMATTED_STYLE = re.compile(r"white-space\s*:\s*(pre|break-spaces)", re.IGNORECASE)


def layout_page(body: str) -> str:
    """Return the text of the main element of a page, or of the page without its frame.

    `body` is serialized. An element that is marked as main is trusted if it holds its share of the prose of the page.
    """
    html = _tokenize_html(body)
    for mark in ("main", "role", "article", "body", *MAIN_IDS):
        tags = [tag for tag, tag_mark in html.main_marks.items() if tag_mark == mark]
        if len(tags) != 1 or html.tags.count(tags[0]) != 1:
            continue
        begin = html.tags.index(tags[0])
        share = MIN_ARTICLE_SHARE if mark == "article" else MIN_MAIN_SHARE
        if _holds_share(html, begin, share) and (text := _layout_element(html, begin, ALWAYS)):
            return text
    return _layout_element(html, 0, FRAME) or _layout_element(html, 0, ALWAYS)


def _holds_share(html: "HtmlTokens", begin: int, share: float) -> bool:
    """Return whether an element holds at least `share` of the text, or of the text outside of links and navigation."""
    lengths = list(map(len, html.words))
    if sum(lengths[begin + 1 : _element_end(html, begin) + 1]) >= share * sum(lengths):
        return True
    skipped = {tag for tag, rule in html.rule_by_tag.items() if rule.boilerplate_level == ALWAYS or tag.startswith("<a ")}
    return _num_prose_chars(html, begin, skipped) >= share * _num_prose_chars(html, 0, skipped)


def _num_prose_chars(html: "HtmlTokens", begin: int, skipped: Set[str]) -> int:
    end, total, index = _element_end(html, begin), 0, begin
    while index < end:
        if html.tags[index] in skipped:
            index = _element_end(html, index)
        total += len(html.words[index + 1])
        index += 1
    return total


class TagRule(NamedTuple):
    """Describe the effect of a tag on the text layout."""

    layout_mark: str = ""  # separator before the following text
    preformatted_delta: int = 0  # change of the nesting depth of preformatted elements
    preserves_spaces: bool = False  # its style preserves whitespace until its end
    code_delta: int = 0  # change of the nesting depth of inline code
    main_mark: str = ""  # kind of main-content marker
    is_box: bool = False  # sidebar: navigation if it contains links, content if it contains prose
    boilerplate_level: int = 0  # 0: content; ALWAYS: boilerplate; FRAME: boilerplate outside of the main element


PLAIN_RULE = TagRule()


class HtmlTokens(NamedTuple):
    """Hold an element as XML tokens.

    `words[i + 1]` follows `tags[i]`, which has `rules[i]`; `main_marks` maps tags of main content to their mark.
    """

    words: list[str]
    tags: list[str]
    rules: list[TagRule]
    rule_by_tag: dict[str, TagRule]
    main_marks: dict[str, str]
    depths: list[int]  # 1: start tag, -1: end tag, 0: element without end tag


def _tokenize_html(markup: str) -> HtmlTokens:
    pieces = TAG.split(whitespace.strip_marks(COMMENT.sub("", markup).replace("&nbsp;", "\u00a0")))
    tags = pieces[1::2]
    reduced_tags = {tag: UNUSED_ATTRIBUTES.sub("", tag) if '="' in tag else tag for tag in dict.fromkeys(tags)}
    rules = {
        tag: _tag_rule(reduced_tag) if len(reduced_tag) < MAX_CACHED_TAG_CHARS else _tag_rule.__wrapped__(reduced_tag)
        for tag, reduced_tag in reduced_tags.items()
    }
    return HtmlTokens(
        pieces[::2],
        tags,
        list(map(rules.__getitem__, tags)),
        rules,
        {tag: rule.main_mark for tag, rule in rules.items() if rule.main_mark},
        list(map({tag: _depth_delta(tag) for tag in rules}.__getitem__, tags)),
    )


def _depth_delta(tag: str) -> int:
    match = NAME.match(tag)
    return 0 if match is None or match[1] in VOID else -1 if tag.startswith("</") else 1


@lru_cache(maxsize=1 << 15)
def _tag_rule(tag: str) -> TagRule:
    """Return the rule of a tag, given as markup with the used attributes only."""
    match = NAME.match(tag)
    name = match[1] if match else ""
    layout_mark = whitespace.PARAGRAPH if name in PARAGRAPHS else whitespace.LINE if name in LINES else ""
    if tag.startswith("</"):
        rule = TagRule(layout_mark, -(name in PREFORMATTED), code_delta=-(name in CODE))
    else:
        attributes = dict(ATTRIBUTE.findall(tag))
        rule = TagRule(
            OPENING_MARKS.get(name, layout_mark),
            preformatted_delta := int(name in PREFORMATTED),
            not preformatted_delta and bool(PREFORMATTED_STYLE.search(attributes.get("style", ""))),
            int(name in CODE),
            _main_mark(name, attributes),
            "sidebar" in attributes.get("class", "").split(),
            _boilerplate_level(name, attributes),
        )
    return PLAIN_RULE if rule == PLAIN_RULE else rule  # the same object, so that `is` replaces a comparison


def _main_mark(name: str, attributes: Mapping[str, str]) -> str:
    """Return how an element is marked as the main content; "" if it is not."""
    if name in ("main", "article"):
        return name
    if attributes.get("role") == "main":
        return "role"
    if name == "div" and "body" in attributes.get("class", "").split():
        return "body"
    return attributes["id"] if attributes.get("id") in MAIN_IDS else ""


def _boilerplate_level(name: str, attributes: Mapping[str, str]) -> int:
    """Return how surely an element is boilerplate, judged by its tag, role and class; 0 for content."""
    role = attributes.get("role", "")
    is_dropped = name == "nav" or role in DROPPED_ROLES or not DROPPED_CLASSES.isdisjoint(attributes.get("class", "").split())
    if is_dropped or attributes.get("aria-hidden") == "true":
        return ALWAYS
    is_named = name in CONTAINERS and not FRAME_NAMES.isdisjoint([attributes.get("id", ""), *attributes.get("class", "").split()])
    return FRAME if is_named or name in FRAMES or role in FRAME_ROLES else 0


def _layout_element(html: HtmlTokens, begin: int, max_level: int) -> str:
    """Lay out the element at `begin` without boilerplate up to `max_level`."""
    words, rules = html.words, html.rules
    parts = [words[begin + 1]]
    preformatted_depth = code_depth = 0
    # Index in `parts` at which the outermost such element begins, and the end of the current sidebar.
    preformatted_start = code_start = box_end = 0
    index, end = begin + 1, _element_end(html, begin)
    while index < end:
        rule = rules[index]
        if rule is PLAIN_RULE:
            parts.append(words[index + 1])
        elif 0 < rule.boilerplate_level <= max_level and not (rule.is_box and (index < box_end or _is_prose(html, index))):
            index = _element_end(html, index)
            parts.append(words[index + 1])
        else:
            text = words[index + 1]
            if rule.is_box and index >= box_end:
                box_end = _element_end(html, index)  # nested sidebars are part of it; otherwise each would be scanned again
            if rule.preserves_spaces and not preformatted_depth:
                last_index = _element_end(html, index)
                rule, rules[last_index] = rule._replace(preformatted_delta=1), rules[last_index]._replace(preformatted_delta=-1)
            elif rule.preformatted_delta > 0:
                text = text.removeprefix("\n")  # HTML ignores a newline right after the tag
            if rule.code_delta:
                if not code_depth:
                    code_start = len(parts)
                code_depth += rule.code_delta
                if not code_depth and not preformatted_depth and "  " in (code_text := "".join(parts[code_start:])):
                    parts[code_start:] = [code_text.replace(" ", "\u00a0")]
            if rule.preformatted_delta < 0:
                preformatted_depth -= 1
                if not preformatted_depth:
                    parts[preformatted_start:] = [whitespace.verbatim("".join(parts[preformatted_start:]))]
            parts.append(rule.layout_mark)
            if rule.preformatted_delta > 0:
                if not preformatted_depth:
                    preformatted_start = len(parts)
                preformatted_depth += 1
            parts.append(text)
        index += 1
    if preformatted_depth:
        parts[preformatted_start:] = [whitespace.verbatim("".join(parts[preformatted_start:]))]
    return unescape(whitespace.layout_text("".join(parts)))


def _is_prose(html: HtmlTokens, begin: int) -> bool:
    """Return whether an element contains text, with at most a quarter in links."""
    link_chars = total_chars = depth = 0
    for index in range(begin, _element_end(html, begin)):
        depth += html.tags[index].startswith("<a ") - (html.tags[index] == "</a>")
        num_chars = len(html.words[index + 1].strip())
        total_chars, link_chars = total_chars + num_chars, link_chars + (num_chars if depth else 0)
    return total_chars >= MIN_PROSE_CHARS and 4 * link_chars <= total_chars


def unescape(text: str) -> str:
    """Replace the escapes of the serializer by their characters."""
    return text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")


def _element_end(html: HtmlTokens, begin: int) -> int:
    """Return the index of the end tag of the element that begins at `begin`."""
    depth = 0
    for index in range(begin, len(html.depths)):
        depth += html.depths[index]
        if depth <= 0:
            return index
    return len(html.tags) - 1
