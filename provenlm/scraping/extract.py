"""An HTML page in; its main text, what it says about itself, and its links out. Code keeps every blank, navigation goes."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from bs4 import BeautifulSoup
from bs4.element import NavigableString, PreformattedString, Tag

from provenlm.scraping import about
from provenlm.scraping.about import About
from provenlm.scraping.prose import Layout
from provenlm.scraping.urls import canonical

DROPPED = {
    "nav", "script", "style", "noscript", "template", "iframe", "svg", "math", "object", "canvas", "audio", "video", "head", "form",
    "button", "input", "select", "textarea", "dialog", "menu",
}  # fmt: skip
FRAME = {"header", "footer", "aside"}  # around the content, unless they are within it
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
MAX_LINKS = 5000  # of one page; more is a trap
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
    soup = BeautifulSoup(markup, "lxml")
    said = about.read(soup, url)
    follow = not said.robots & {"nofollow", "none"}
    links = tuple(dict.fromkeys(_links(soup, url))) if follow else ()
    return Html(main_text(soup), said, links, not said.robots & {"noindex", "none"}, follow)


def main_text(soup: BeautifulSoup) -> str:
    """The text of the page's main element; of the whole body where none is marked as such or it is empty."""
    marked: dict[str, list[Tag]] = {"main": [], "role": [], "article": [], "body": [], **{name: [] for name in MAIN_IDS}}
    for tag in soup.find_all(True):
        if isinstance(tag, Tag) and (mark := _mark(tag)):
            marked[mark].append(tag)
    for tags in marked.values():
        if len(tags) == 1 and (text := _text(tags[0], inside=True)):
            return text
    return _text(soup.body or soup, inside=False)


def _mark(tag: Tag) -> str:
    """What marks `tag` as the page's main content; "" if nothing does."""
    if tag.name in ("main", "article"):
        return str(tag.name)
    if not tag.attrs:
        return ""
    if tag.get("role") == "main":
        return "role"
    if tag.name == "div" and "body" in (tag.get("class") or ()):
        return "body"
    name = tag.get("id")
    return str(name) if name in MAIN_IDS else ""


def _text(root: Tag, inside: bool) -> str:
    """Lay out `root`; `inside` the main content a header or an aside belongs to it. Deep nesting costs memory, not the stack."""
    layout = Layout()
    stack: list[tuple[Tag, Iterator[object], bool]] = [(root, iter(root.contents), False)]
    while stack:
        tag, children, kept = stack[-1]
        child = next(children, None)
        if child is None:
            stack.pop()
            _close(tag, layout)
        elif isinstance(child, Tag):
            if not _dropped(child, inside):
                _open(child, layout)
                stack.append((child, iter(child.contents), kept or _is_kept(child)))
        elif isinstance(child, NavigableString) and not isinstance(child, PreformattedString):
            _say(str(child), child, layout, kept)
    return layout.text().strip("\n")


def _say(text: str, node: NavigableString, layout: Layout, kept: bool) -> None:
    parent = node.parent
    if kept:
        first = parent is not None and parent.name in PREFORMATTED and node.previous_sibling is None
        layout.kept(text.replace("\r\n", "\n")[1:] if first and text.startswith("\n") else text.replace("\r\n", "\n"))
    elif parent is not None and parent.name in CODE:
        layout.flowing(text.replace(" ", "\u00a0") if "  " in text else text)
    else:
        layout.flowing(text)


def _is_kept(tag: Tag) -> bool:
    return tag.name in PREFORMATTED or bool(tag.attrs and SPACED.search(str(tag.get("style") or "")))


def _dropped(tag: Tag, inside: bool) -> bool:
    if tag.name in DROPPED or (not inside and tag.name in FRAME):
        return True
    if not tag.attrs:
        return False
    if "hidden" in tag.attrs or tag.get("aria-hidden") == "true" or tag.get("role") in DROPPED_ROLES:
        return True
    classes = tag.get("class")
    return bool(classes) and not DROPPED_CLASSES.isdisjoint([classes] if isinstance(classes, str) else classes or ())


def _open(tag: Tag, layout: Layout) -> None:
    name = tag.name
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


def _close(tag: Tag, layout: Layout) -> None:
    if tag.name in PARAGRAPHS:
        layout.paragraph()
    elif tag.name in LINES:
        layout.line()


def _links(soup: BeautifulSoup, url: str) -> Iterator[str]:
    base = soup.find("base", href=True)
    root = canonical(str(base["href"]), url) or url if isinstance(base, Tag) else url
    for tag in soup.find_all("a", href=True, limit=MAX_LINKS):
        href = str(tag["href"])
        address = None if "nofollow" in (tag.get("rel") or ()) else canonical(href, root)
        if address is not None:
            yield address
