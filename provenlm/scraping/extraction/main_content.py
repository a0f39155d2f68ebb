"""Extract the main text of an HTML page without boilerplate.

The whitespace of code is kept.
"""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from lxml import etree

from provenlm.scraping.extraction import whitespace

DROPPED = {
    "nav", "script", "style", "noscript", "template", "iframe", "svg", "math", "object", "canvas", "audio", "video", "head", "form",
    "button", "input", "select", "textarea", "dialog", "menu",
}  # fmt: skip
FRAMES = {"header", "footer", "aside"}  # boilerplate, unless they are inside the main content
ALWAYS, FRAME, UNLIKELY = 1, 2, 3
DROPPED_CLASSES = {
    "headerlink", "sphinxsidebar", "navheader", "navfooter", "navbar", "docnav", "toc", "related", "breadcrumb", "breadcrumbs",
    "linenos", "linenodiv", "sidebar", "skip-link", "visually-hidden", "sr-only", "cookie-banner",
}  # fmt: skip
DROPPED_ROLES = {"navigation", "search", "banner", "contentinfo", "complementary", "menu", "menubar", "dialog", "alert"}
PARAGRAPHS = {
    "p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "dl", "table", "blockquote", "pre", "section", "article", "main", "figure",
    "hr", "details", "fieldset", "address", "body",
}  # fmt: skip
LINES = {
    "div", "li", "dt", "dd", "tr", "caption", "thead", "tbody", "tfoot", "figcaption", "summary", "center", "header", "footer", "aside",
}  # fmt: skip
OPENING_MARKS = {"br": whitespace.BREAK, "li": whitespace.ITEM, "td": whitespace.CELL, "th": whitespace.CELL}
PREFORMATTED = {"pre", "listing", "xmp", "plaintext"}
CODE = {"code", "tt", "kbd", "samp", "var"}
MAIN_IDS = ("content", "main-content", "main")
# Words of a class or id that indicate boilerplate, as in the reader modes of browsers, and words that indicate content.
UNLIKELY_WORDS = {
    "ad", "ads", "advert", "advertisement", "banner", "breadcrumb", "breadcrumbs", "comments", "consent", "cookie", "cookies", "footer",
    "masthead", "menu", "modal", "navbar", "newsletter", "pager", "pagination", "popup", "promo", "related", "share", "sharing", "sidebar",
    "social", "sponsor", "subscribe", "topbar", "widget",
}  # fmt: skip
LIKELY_WORDS = {
    "article",
    "body",
    "column",
    "content",
    "entry",
    "main",
    "page",
    "post",
    "text",
    "wrapper",
    "container",
    "layout",
    "section",
}
CONTAINERS = {"div", "section", "ul", "ol", "table", "td", "p"}
WORDS = re.compile(r"[A-Z]?[a-z]+")
MIN_PROSE_CHARS = 100
MAX_CACHED_TAG_CHARS = 256
UNUSED_ATTRIBUTES = re.compile(' (?!(?:class|id|role|hidden|aria-hidden|style)=)[^ =]+="[^"]*"')
TAG = re.compile("(<[^>]*>)")
NAME = re.compile("</?([^ />]+)")
ATTRIBUTE = re.compile(' (class|id|role|hidden|aria-hidden|style)="([^"]*)"')
CHARACTER = re.compile("&#x([0-9A-F]{1,5});")
PREFORMATTED_STYLE = re.compile(r"white-space\s*:\s*(pre|break-spaces)", re.IGNORECASE)


def extract_main_text(root: etree._Element) -> str:
    """Return the text of the main element, or of the body without boilerplate.

    The body is used if no element is marked as main or the main element is empty. Removes elements without text from
    `root`.
    """
    etree.strip_elements(root, *DROPPED, with_tail=False)
    body = root.find("body")
    html = _tokenize_html(etree.tostring(root if body is None else body, encoding="unicode", with_tail=False))
    for mark in ("main", "role", "article", "body", *MAIN_IDS):
        tags = [tag for tag, tag_mark in html.main_marks.items() if tag_mark == mark]
        if len(tags) == 1 and html.tags.count(tags[0]) == 1 and (text := _layout_element(html, html.tags.index(tags[0]), ALWAYS)):
            return text
    text_without_frames = _layout_element(html, 0, UNLIKELY)
    max_chars = sum(map(len, html.words)) + 3 * len(html.tags)  # upper bound: a tag adds at most 3 characters
    if 4 * len(text_without_frames) >= max_chars:
        return text_without_frames
    full_text = _layout_element(html, 0, FRAME)
    # If most text is lost, a wrapper was named after the sidebar that it contains.
    return text_without_frames if 4 * len(text_without_frames) >= len(full_text) else full_text


class TagRule(NamedTuple):
    """Describe the effect of a tag on the text layout."""

    layout_mark: str = ""  # separator before the following text
    preformatted_delta: int = 0  # change of the nesting depth of preformatted elements
    preserves_spaces: bool = False  # its style preserves whitespace until its end
    code_delta: int = 0  # change of the nesting depth of inline code
    main_mark: str = ""  # kind of main-content marker
    is_box: bool = False  # sidebar: navigation if it contains links, content if it contains prose
    boilerplate_level: int = 0  # 0: content; ALWAYS, FRAME, UNLIKELY: boilerplate, in order of decreasing certainty


PLAIN_RULE = TagRule()


class HtmlTokens(NamedTuple):
    """Hold an element as XML tokens.

    `words[i + 1]` follows `tags[i]`, which has `rules[i]`; `main_marks` maps tags of main content to their mark.
    """

    words: list[str]
    tags: list[str]
    rules: list[TagRule]
    main_marks: dict[str, str]


def _tokenize_html(markup: str) -> HtmlTokens:
    pieces = TAG.split(whitespace.strip_marks(markup))
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
        {tag: rule.main_mark for tag, rule in rules.items() if rule.main_mark},
    )


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
            preformatted_delta := int(name in PREFORMATTED and not tag.endswith("/>")),
            not preformatted_delta and bool(PREFORMATTED_STYLE.search(attributes.get("style", ""))),
            int(name in CODE and not tag.endswith("/>")),
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
    """Return how surely an element is boilerplate; 0 for content.

    Judged by its tag, role, class and id.
    """
    hidden = "hidden" in attributes or attributes.get("aria-hidden") == "true"
    if hidden or attributes.get("role") in DROPPED_ROLES or not DROPPED_CLASSES.isdisjoint(attributes.get("class", "").split()):
        return ALWAYS
    if name in FRAMES:
        return FRAME
    if name in CONTAINERS:
        # The id of a section is its title, which says nothing about its role.
        names = attributes.get("class", "") if name == "section" else f"{attributes.get('class', '')} {attributes.get('id', '')}"
        words = {word.lower() for word in WORDS.findall(names)}
        return UNLIKELY if not UNLIKELY_WORDS.isdisjoint(words) and LIKELY_WORDS.isdisjoint(words) else 0
    return 0


def _layout_element(html: HtmlTokens, begin: int, max_level: int) -> str:
    """Lay out the element at `begin` without boilerplate up to `max_level`."""
    words, tags, rules, _ = html
    parts = [words[begin + 1]]
    preformatted_depth = code_depth = 0
    # Index in `parts` at which the outermost such element begins, and the end of the current sidebar.
    preformatted_start = code_start = box_end = 0
    index, end = begin + 1, _element_end(tags, begin)
    while index < end:
        rule = rules[index]
        if rule is PLAIN_RULE:
            parts.append(words[index + 1])
        elif 0 < rule.boilerplate_level <= max_level and not (rule.is_box and (index < box_end or _is_prose(html, index))):
            index = _element_end(tags, index)
            parts.append(words[index + 1])
        else:
            text = words[index + 1]
            if rule.is_box and index >= box_end:
                box_end = _element_end(tags, index)  # nested sidebars are part of it; otherwise each would be scanned again
            if rule.preserves_spaces and not preformatted_depth:
                last_index = _element_end(tags, index)
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
    return _unescape_xml(whitespace.layout_text("".join(parts)))


def _is_prose(html: HtmlTokens, begin: int) -> bool:
    """Return whether an element contains text, with at most a quarter in links."""
    link_chars = total_chars = depth = 0
    for index in range(begin, _element_end(html.tags, begin)):
        depth += html.tags[index].startswith("<a ") - (html.tags[index] == "</a>")
        num_chars = len(html.words[index + 1].strip())
        total_chars, link_chars = total_chars + num_chars, link_chars + (num_chars if depth else 0)
    return total_chars >= MIN_PROSE_CHARS and 4 * link_chars <= total_chars


def _unescape_xml(text: str) -> str:
    """Replace XML escapes by their characters."""
    text = text.replace("&lt;", "<").replace("&gt;", ">")
    if "&#" in text:
        text = CHARACTER.sub(lambda match: chr(int(match[1], 16)), text.replace("&#13;", "\r"))
    return text.replace("&amp;", "&")


def _element_end(tags: list[str], begin: int) -> int:
    """Return the index of the end tag of the element that begins at `begin`."""
    depth = 0
    for index in range(begin, len(tags)):
        tag = tags[index]
        if tag[1] == "/":
            depth -= 1
        elif tag[-2] != "/":
            depth += 1
        if not depth:
            return index
    return len(tags) - 1
