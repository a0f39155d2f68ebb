"""A page's tree in; the text of its main content out. Code keeps every blank, navigation goes."""

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
FRAMES = {"header", "footer", "aside"}  # around the content, unless they are within it
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
# Words in a class or id that name what is around the content, as readers' modes of browsers know them, and words that name the content.
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
MIN_PROSE_CHARS = 100  # characters
MAX_CACHED_TAG_CHARS = 256  # characters of a tag
UNUSED_ATTRIBUTES = re.compile(
    ' (?!(?:class|id|role|hidden|aria-hidden|style)=)[^ =]+="[^"]*"'
)  # attributes that say nothing to us
TAG = re.compile("(<[^>]*>)")
NAME = re.compile("</?([^ />]+)")
ATTRIBUTE = re.compile(' (class|id|role|hidden|aria-hidden|style)="([^"]*)"')
CHARACTER = re.compile("&#x([0-9A-F]{1,5});")
PREFORMATTED_STYLE = re.compile(r"white-space\s*:\s*(pre|break-spaces)", re.IGNORECASE)


def extract_main_text(root: etree._Element) -> str:
    """The text of the page's main element; where none is marked as such or it is empty, of the whole body but what names itself a frame.

    Elements that hold no text are gone from `root` afterwards.
    """
    etree.strip_elements(root, *DROPPED, with_tail=False)
    body = root.find("body")
    html = _tokenize_html(etree.tostring(root if body is None else body, encoding="unicode", with_tail=False))
    for mark in ("main", "role", "article", "body", *MAIN_IDS):
        tags = [tag for tag, tag_mark in html.main_marks.items() if tag_mark == mark]
        if len(tags) == 1 and html.tags.count(tags[0]) == 1 and (text := _layout_element(html, html.tags.index(tags[0]), ALWAYS)):
            return text
    text_without_frames = _layout_element(html, 0, UNLIKELY)
    if 4 * len(text_without_frames) >= sum(map(len, html.words)) + 3 * len(
        html.tags
    ):  # no tag is laid out longer: the rest is less than that
        return text_without_frames
    full_text = _layout_element(html, 0, FRAME)
    return (
        text_without_frames if 4 * len(text_without_frames) >= len(full_text) else full_text
    )  # a wrapper may be called after the sidebar that it holds


class TagRule(NamedTuple):
    """What a tag does to the text around it."""

    layout_mark: str = ""  # how what follows is set off
    preformatted_delta: int = 0  # how many preformatted elements more we are in
    preserves_spaces: bool = False  # its style keeps blanks until it ends
    code_delta: int = 0  # how many elements of inline code more we are in
    main_mark: str = ""  # of the page's main content
    is_box: bool = False  # navigation if it holds links, and content, set apart, if it holds prose
    boilerplate_level: int = 0  # 0: content; ALWAYS, FRAME, UNLIKELY: how surely it is none


PLAIN_RULE = TagRule()


class HtmlTokens(NamedTuple):
    """An element as XML. `words[i + 1]` stand behind `tags[i]`, which is of `kinds[i]`; `marked`: those that mark the main content."""

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
    """Of a tag as it is written, with the attributes that are asked."""
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
    return PLAIN_RULE if rule == PLAIN_RULE else rule  # one and the same, which is seen faster than what equals it


def _main_mark(name: str, attributes: Mapping[str, str]) -> str:
    """What marks an element as the page's main content; "" if nothing does."""
    if name in ("main", "article"):
        return name
    if attributes.get("role") == "main":
        return "role"
    if name == "div" and "body" in attributes.get("class", "").split():
        return "body"
    return attributes["id"] if attributes.get("id") in MAIN_IDS else ""


def _boilerplate_level(name: str, attributes: Mapping[str, str]) -> int:
    """Whether an element is, or names itself, something around the content."""
    hidden = "hidden" in attributes or attributes.get("aria-hidden") == "true"
    if hidden or attributes.get("role") in DROPPED_ROLES or not DROPPED_CLASSES.isdisjoint(attributes.get("class", "").split()):
        return ALWAYS
    if name in FRAMES:
        return FRAME
    if name in CONTAINERS:
        names = (
            attributes.get("class", "") if name == "section" else f"{attributes.get('class', '')} {attributes.get('id', '')}"
        )  # its id is its title
        words = {word.lower() for word in WORDS.findall(names)}
        return UNLIKELY if not UNLIKELY_WORDS.isdisjoint(words) and LIKELY_WORDS.isdisjoint(words) else 0
    return 0


def _layout_element(html: HtmlTokens, begin: int, max_level: int) -> str:
    """Lay out the element that begins at `begin` without what is none of the content as surely as `around`."""
    words, tags, rules, _ = html
    parts = [words[begin + 1]]
    preformatted_depth = code_depth = 0  # how many elements of either kind we are in, and where in `parts` the outermost began
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
                box_end = _element_end(tags, index)  # boxes within it are part of it: each would be read once more
            if rule.preserves_spaces and not preformatted_depth:
                last_index = _element_end(tags, index)
                rule, rules[last_index] = rule._replace(kept=1), rules[last_index]._replace(kept=-1)
            elif rule.preformatted_delta > 0:
                text = text.removeprefix("\n")  # right behind the tag it means nothing
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
    """Does the element that begins at `begin` hold text, and little of it in links?"""
    link_chars = total_chars = depth = 0
    for index in range(begin, _element_end(html.tags, begin)):
        depth += html.tags[index].startswith("<a ") - (html.tags[index] == "</a>")
        num_chars = len(html.words[index + 1].strip())
        total_chars, link_chars = total_chars + num_chars, link_chars + (num_chars if depth else 0)
    return total_chars >= MIN_PROSE_CHARS and 4 * link_chars <= total_chars


def _unescape_xml(text: str) -> str:
    """What XML writes otherwise, as it is meant."""
    text = text.replace("&lt;", "<").replace("&gt;", ">")
    if "&#" in text:
        text = CHARACTER.sub(lambda match: chr(int(match[1], 16)), text.replace("&#13;", "\r"))
    return text.replace("&amp;", "&")


def _element_end(tags: list[str], begin: int) -> int:
    """Where the element ends that begins at `begin`."""
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
