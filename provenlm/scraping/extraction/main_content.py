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
OPENING = {"br": whitespace.BREAK, "li": whitespace.ITEM, "td": whitespace.CELL, "th": whitespace.CELL}
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
PROSE = 100  # characters
REMEMBERED = 256  # characters of a tag
UNASKED = re.compile(' (?!(?:class|id|role|hidden|aria-hidden|style)=)[^ =]+="[^"]*"')  # attributes that say nothing to us
TAG = re.compile("(<[^>]*>)")
NAME = re.compile("</?([^ />]+)")
ATTRIBUTE = re.compile(' (class|id|role|hidden|aria-hidden|style)="([^"]*)"')
CHARACTER = re.compile("&#x([0-9A-F]{1,5});")
SPACED = re.compile(r"white-space\s*:\s*(pre|break-spaces)", re.IGNORECASE)


def main_text(root: etree._Element) -> str:
    """The text of the page's main element; where none is marked as such or it is empty, of the whole body but what names itself a frame.

    Elements that hold no text are gone from `root` afterwards.
    """
    etree.strip_elements(root, *DROPPED, with_tail=False)
    body = root.find("body")
    page = _tokens(etree.tostring(root if body is None else body, encoding="unicode", with_tail=False))
    for mark in ("main", "role", "article", "body", *MAIN_IDS):
        tags = [tag for tag, of in page.marked.items() if of == mark]
        if len(tags) == 1 and page.tags.count(tags[0]) == 1 and (text := _text(page, page.tags.index(tags[0]), ALWAYS)):
            return text
    part = _text(page, 0, UNLIKELY)
    if 4 * len(part) >= sum(map(len, page.words)) + 3 * len(page.tags):  # no tag is laid out longer: the rest is less than that
        return part
    whole = _text(page, 0, FRAME)
    return part if 4 * len(part) >= len(whole) else whole  # a wrapper may be called after the sidebar that it holds


class Kind(NamedTuple):
    """What a tag does to the text around it."""

    sign: str = ""  # how what follows is set off
    kept: int = 0  # how many preformatted elements more we are in
    spaced: bool = False  # its style keeps blanks until it ends
    code: int = 0  # how many elements of inline code more we are in
    mark: str = ""  # of the page's main content
    box: bool = False  # navigation if it holds links, and content, set apart, if it holds prose
    around: int = 0  # 0: content; ALWAYS, FRAME, UNLIKELY: how surely it is none


PLAIN = Kind()


class Tokens(NamedTuple):
    """An element as XML. `words[i + 1]` stand behind `tags[i]`, which is of `kinds[i]`; `marked`: those that mark the main content."""

    words: list[str]
    tags: list[str]
    kinds: list[Kind]
    marked: dict[str, str]


def _tokens(markup: str) -> Tokens:
    pieces = TAG.split(whitespace.without_marks(markup))
    tags = pieces[1::2]
    asked = {tag: UNASKED.sub("", tag) if '="' in tag else tag for tag in dict.fromkeys(tags)}
    kinds = {tag: _kind(said) if len(said) < REMEMBERED else _kind.__wrapped__(said) for tag, said in asked.items()}
    return Tokens(
        pieces[::2], tags, list(map(kinds.__getitem__, tags)), {tag: kind.mark for tag, kind in kinds.items() if kind.mark}
    )


@lru_cache(maxsize=1 << 15)
def _kind(tag: str) -> Kind:
    """Of a tag as it is written, with the attributes that are asked."""
    found = NAME.match(tag)
    name = found[1] if found else ""
    sign = whitespace.PARAGRAPH if name in PARAGRAPHS else whitespace.LINE if name in LINES else ""
    if tag.startswith("</"):
        kind = Kind(sign, -(name in PREFORMATTED), code=-(name in CODE))
    else:
        said = dict(ATTRIBUTE.findall(tag))
        kind = Kind(
            OPENING.get(name, sign),
            kept := int(name in PREFORMATTED and not tag.endswith("/>")),
            not kept and bool(SPACED.search(said.get("style", ""))),
            int(name in CODE and not tag.endswith("/>")),
            _mark(name, said),
            "sidebar" in said.get("class", "").split(),
            _around(name, said),
        )
    return PLAIN if kind == PLAIN else kind  # one and the same, which is seen faster than what equals it


def _mark(name: str, said: Mapping[str, str]) -> str:
    """What marks an element as the page's main content; "" if nothing does."""
    if name in ("main", "article"):
        return name
    if said.get("role") == "main":
        return "role"
    if name == "div" and "body" in said.get("class", "").split():
        return "body"
    return said["id"] if said.get("id") in MAIN_IDS else ""


def _around(name: str, said: Mapping[str, str]) -> int:
    """Whether an element is, or names itself, something around the content."""
    hidden = "hidden" in said or said.get("aria-hidden") == "true"
    if hidden or said.get("role") in DROPPED_ROLES or not DROPPED_CLASSES.isdisjoint(said.get("class", "").split()):
        return ALWAYS
    if name in FRAMES:
        return FRAME
    if name in CONTAINERS:
        names = (
            said.get("class", "") if name == "section" else f"{said.get('class', '')} {said.get('id', '')}"
        )  # its id is its title
        words = {word.lower() for word in WORDS.findall(names)}
        return UNLIKELY if not UNLIKELY_WORDS.isdisjoint(words) and LIKELY_WORDS.isdisjoint(words) else 0
    return 0


def _text(page: Tokens, begin: int, around: int) -> str:
    """Lay out the element that begins at `begin` without what is none of the content as surely as `around`."""
    words, tags, kinds, _ = page
    parts = [words[begin + 1]]
    kept = code = 0  # how many elements of either kind we are in, and where in `parts` the outermost began
    kept_since = code_since = boxed = 0
    place, end = begin + 1, _end(tags, begin)
    while place < end:
        kind = kinds[place]
        if kind is PLAIN:
            parts.append(words[place + 1])
        elif 0 < kind.around <= around and not (kind.box and (place < boxed or _is_prose(page, place))):
            place = _end(tags, place)
            parts.append(words[place + 1])
        else:
            text = words[place + 1]
            if kind.box and place >= boxed:
                boxed = _end(tags, place)  # boxes within it are part of it: each would be read once more
            if kind.spaced and not kept:
                last = _end(tags, place)
                kind, kinds[last] = kind._replace(kept=1), kinds[last]._replace(kept=-1)
            elif kind.kept > 0:
                text = text.removeprefix("\n")  # right behind the tag it means nothing
            if kind.code:
                if not code:
                    code_since = len(parts)
                code += kind.code
                if not code and not kept and "  " in (whole := "".join(parts[code_since:])):
                    parts[code_since:] = [whole.replace(" ", "\u00a0")]
            if kind.kept < 0:
                kept -= 1
                if not kept:
                    parts[kept_since:] = [whitespace.kept("".join(parts[kept_since:]))]
            parts.append(kind.sign)
            if kind.kept > 0:
                if not kept:
                    kept_since = len(parts)
                kept += 1
            parts.append(text)
        place += 1
    if kept:
        parts[kept_since:] = [whitespace.kept("".join(parts[kept_since:]))]
    return _unescaped(whitespace.laid_out("".join(parts)))


def _is_prose(page: Tokens, begin: int) -> bool:
    """Does the element that begins at `begin` hold text, and little of it in links?"""
    linked = whole = depth = 0
    for place in range(begin, _end(page.tags, begin)):
        depth += page.tags[place].startswith("<a ") - (page.tags[place] == "</a>")
        size = len(page.words[place + 1].strip())
        whole, linked = whole + size, linked + (size if depth else 0)
    return whole >= PROSE and 4 * linked <= whole


def _unescaped(text: str) -> str:
    """What XML writes otherwise, as it is meant."""
    text = text.replace("&lt;", "<").replace("&gt;", ">")
    if "&#" in text:
        text = CHARACTER.sub(lambda found: chr(int(found[1], 16)), text.replace("&#13;", "\r"))
    return text.replace("&amp;", "&")


def _end(tags: list[str], begin: int) -> int:
    """Where the element ends that begins at `begin`."""
    depth = 0
    for place in range(begin, len(tags)):
        tag = tags[place]
        if tag[1] == "/":
            depth -= 1
        elif tag[-2] != "/":
            depth += 1
        if not depth:
            return place
    return len(tags) - 1
