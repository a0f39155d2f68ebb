"""An HTML page in; its main text, what it says about itself, and its links out. Code keeps every blank, navigation goes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from lxml import etree

from provenlm.scraping import about
from provenlm.scraping.about import About
from provenlm.scraping.prose import Layout
from provenlm.scraping.urls import canonical

DROPPED = {
    "nav", "script", "style", "noscript", "template", "iframe", "svg", "math", "object", "canvas", "audio", "video", "head", "form",
    "button", "input", "select", "textarea", "dialog", "menu",
}  # fmt: skip
FRAME = frozenset({"header", "footer", "aside"})  # around the content, unless they are within it
FRAMELESS: frozenset[str] = frozenset()
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
    "div",
    "li",
    "dt",
    "dd",
    "tr",
    "caption",
    "thead",
    "tbody",
    "tfoot",
    "figcaption",
    "summary",
    "center",
    "header",
    "footer",
    "aside",
}
PREFORMATTED = {"pre", "listing", "xmp", "plaintext"}
CODE = {"code", "tt", "kbd", "samp", "var"}
MAIN_IDS = ("content", "main-content", "main")
# Words in a class or id that name what is around the content, as readers' modes of browsers know them, and words that name the content.
UNLIKELY = {
    "ad", "ads", "advert", "advertisement", "banner", "breadcrumb", "breadcrumbs", "comments", "consent", "cookie", "cookies", "footer",
    "masthead", "menu", "modal", "navbar", "newsletter", "pager", "pagination", "popup", "promo", "related", "share", "sharing", "sidebar",
    "social", "sponsor", "subscribe", "topbar", "widget",
}  # fmt: skip
LIKELY = {"article", "body", "column", "content", "entry", "main", "page", "post", "text", "wrapper", "container", "layout"}
CONTAINERS = {"div", "section", "ul", "ol", "table", "td", "p"}
WORDS = re.compile(r"[A-Z]?[a-z]+")
MAX_LINKS = 5000  # of one page; more is a trap
ENDS = re.compile(
    r"</(?:html|body)\s*>", re.IGNORECASE
)  # what follows them belongs to the page all the same; libxml2 sets it apart
SPACED = re.compile(r"white-space\s*:\s*(pre|break-spaces)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Html:
    """What one HTML page says."""

    text: str
    about: About
    links: tuple[str, ...]  # canonical, in page order, each once
    index: bool  # may its content be kept, and
    follow: bool  # may its links be followed, by its robots meta element


def read(markup: str, url: str) -> Html:
    """Read the page `markup`, found at the canonical address `url`."""
    root = parsed(markup)
    said = about.read(root, url)
    follow = not said.robots & {"nofollow", "none"}
    links = tuple(dict.fromkeys(_links(root, url))) if follow else ()
    return Html(main_text(root), said, links, not said.robots & {"noindex", "none"}, follow)


def parsed(markup: str) -> etree._Element:
    """The page as a tree, mended as libxml2 mends it. It builds no deeper than 2048 elements: deeper pages are built from its events."""
    body = ENDS.sub("", markup.replace("\0", "\ufffd")).encode("utf-8", "replace")
    parser = etree.HTMLParser(encoding="utf-8", huge_tree=True)
    root = etree.fromstring(body, parser) if body.strip() else None
    if any("Excessive depth" in error.message for error in parser.error_log):
        root = etree.fromstring(body, etree.HTMLParser(encoding="utf-8", huge_tree=True, target=etree.TreeBuilder()))
    return root if root is not None else etree.Element("html")


def main_text(root: etree._Element) -> str:
    """The text of the page's main element; where none is marked as such or it is empty, of the whole body but what names itself a frame."""
    marked: dict[str, list[etree._Element]] = {"main": [], "role": [], "article": [], "body": [], **{name: [] for name in MAIN_IDS}}
    for tag in root.iter(etree.Element):
        if mark := _mark(tag):
            marked[mark].append(tag)
    for tags in marked.values():
        if len(tags) == 1 and (text := _text(tags[0], FRAMELESS)):
            return text
    body = root.find("body")
    whole = _text(body if body is not None else root, FRAME)
    part = _text(body if body is not None else root, FRAME, unlikely=True)
    return part if 4 * len(part) >= len(whole) else whole  # a wrapper may be called after the sidebar that it holds


def _mark(tag: etree._Element) -> str:
    """What marks `tag` as the page's main content; "" if nothing does."""
    if tag.tag in ("main", "article"):
        return str(tag.tag)
    if not tag.attrib:
        return ""
    if tag.get("role") == "main":
        return "role"
    if tag.tag == "div" and "body" in tag.get("class", "").split():
        return "body"
    name = tag.get("id")
    return str(name) if name in MAIN_IDS else ""


def _text(root: etree._Element, frame: frozenset[str], unlikely: bool = False) -> str:
    """Lay out `root` without what is named in `frame`. Deep nesting costs memory, not the stack."""
    layout = Layout()
    depth = 0  # of the preformatted elements that we are in
    dropped: etree._Element | None = None
    walk = etree.iterwalk(root, events=("start", "end", "comment", "pi"))
    for event, tag in walk:
        if event == "start":
            if tag is not root and (_dropped(tag, frame) or (unlikely and _unlikely(tag))):
                dropped = tag
                walk.skip_subtree()
                continue
            if tag is not root:
                _open(tag, layout)
                depth += _is_kept(tag)
            if tag.text:
                _say(tag.text, tag, layout, depth > 0, tag.tag in PREFORMATTED)
        elif event == "end":
            if tag is dropped:
                dropped = None
            else:
                _close(tag, layout)
                depth -= tag is not root and _is_kept(tag)
            if tag.tail and tag is not root:
                _say(tag.tail, tag.getparent(), layout, depth > 0, False)
        elif tag.tail and tag is not root:
            _say(tag.tail, tag.getparent(), layout, depth > 0, False)
    return layout.text().strip("\n")


def _say(text: str, parent: etree._Element, layout: Layout, kept: bool, first: bool) -> None:
    """`first`: directly behind the start of a preformatted element, where a line break means nothing."""
    if kept:
        text = text.replace("\r\n", "\n")
        layout.kept(text[1:] if first and text.startswith("\n") else text)
    elif "  " in text and parent.tag in CODE:
        layout.flowing(text.replace(" ", "\u00a0"))
    else:
        layout.flowing(text)


def _is_kept(tag: etree._Element) -> bool:
    return tag.tag in PREFORMATTED or bool(tag.attrib and SPACED.search(tag.get("style", "")))


def _dropped(tag: etree._Element, frame: frozenset[str]) -> bool:
    if tag.tag in DROPPED or tag.tag in frame:
        return True
    if not tag.attrib:
        return False
    if "hidden" in tag.attrib or tag.get("aria-hidden") == "true" or tag.get("role") in DROPPED_ROLES:
        return True
    classes = tag.get("class")
    return bool(classes) and not DROPPED_CLASSES.isdisjoint(classes.split())


def _unlikely(tag: etree._Element) -> bool:
    """Does a container's class or id name it as something around the content?"""
    if not tag.attrib or tag.tag not in CONTAINERS:
        return False
    words = {word.lower() for word in WORDS.findall(f"{tag.get('class', '')} {tag.get('id', '')}")}
    return not UNLIKELY.isdisjoint(words) and LIKELY.isdisjoint(words)


def _open(tag: etree._Element, layout: Layout) -> None:
    name = tag.tag
    if name == "br":
        layout.forced()
    elif name in PARAGRAPHS:
        layout.paragraph()
    elif name in LINES:
        layout.line()
        if name == "li":
            layout.flowing("-\u00a0")
    elif name in ("td", "th"):
        layout.cell()


def _close(tag: etree._Element, layout: Layout) -> None:
    if tag.tag in PARAGRAPHS:
        layout.paragraph()
    elif tag.tag in LINES:
        layout.line()


def _links(root: etree._Element, url: str) -> Iterator[str]:
    base = next((tag for tag in root.iter("base") if tag.get("href")), None)
    start = canonical(base.get("href"), url) or url if base is not None else url
    for count, tag in enumerate(tag for tag in root.iter("a") if tag.get("href") is not None):
        if count >= MAX_LINKS:
            return
        address = None if "nofollow" in tag.get("rel", "").split() else canonical(tag.get("href"), start)
        if address is not None:
            yield address
