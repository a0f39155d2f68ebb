"""Find the links of an HTML page, and the page that it forwards to."""

import re
from collections.abc import Iterator
from itertools import islice

from resiliparse.parse.html import ElementNode, HTMLTree

from provenlm.scraping.crawl.urls import link_normalizer, normalize_url
from provenlm.scraping.extraction.page_cleaning import select

MAX_LINKS = 5000  # per page; more indicate a crawler trap
MAX_REFRESH_SECONDS = 5.0  # a page that is shown longer is a page of its own
LINK_SELECTOR = "a[href], area[href], iframe[src], frame[src], link[rel][href], meta[http-equiv][content]"
# HTML standard, section 4.2.5.3: the seconds, then the URL, with or without `url=` and quotes.
REFRESH = re.compile(
    r"""\s*(\d+)(?:\.[\d.]*)?\s*(?:[;,]\s*|\s)(?:url\s*=\s*)?(?:(["'])(.*?)(?:\2|$)|(.+))""", re.IGNORECASE | re.DOTALL
)


def page_links(tree: HTMLTree, url: str) -> Iterator[str]:
    """Yield the normalized URLs that the page at `url` links to, in page order.

    These are links and areas of image maps without rel="nofollow", frames, the next page of a series, and the target of a slow
    refresh.
    """
    normalize = link_normalizer(base_url(tree, url))
    nodes = islice((link for node in select(tree.document, LINK_SELECTOR) if (link := _link(node))), MAX_LINKS)
    for link in dict.fromkeys(link.partition("#")[0] for link in nodes):
        if (absolute_url := normalize(link)) is not None:
            yield absolute_url


def refresh_url(tree: HTMLTree, url: str) -> str:
    """Return the normalized URL that the page at `url` forwards to by its refresh.

    "" if it does not forward, forwards only after a while, or to itself.
    """
    for node in select(tree.document, "meta[http-equiv][content]"):
        seconds, target = _refresh(node)
        if target and seconds <= MAX_REFRESH_SECONDS:
            absolute_url = normalize_url(target, base_url(tree, url)) or ""
            return absolute_url if absolute_url != url else ""
    return ""


def base_url(tree: HTMLTree, url: str) -> str:
    """Return the URL that the links of the page at `url` are relative to."""
    base = next((node.getattr("href") for node in select(tree.document, "base[href]") if node.getattr("href")), None)
    return (normalize_url(base, url) if base is not None else None) or url


def _link(node: ElementNode) -> str:
    """Return the address that an element links to; "" for none."""
    if node.tag in ("iframe", "frame"):
        return node.getattr("src") or ""
    relations = (node.getattr("rel") or "").lower().split()
    if node.tag == "meta":
        return _refresh(node)[1]
    if node.tag == "link" and "next" not in relations:
        return ""
    return "" if "nofollow" in relations else node.getattr("href") or ""


def _refresh(node: ElementNode) -> tuple[float, str]:
    """Return the seconds and the address of a refresh; 0 and "" for another element."""
    match = REFRESH.match(node.getattr("content") or "")
    if match is None or (node.getattr("http-equiv") or "").strip().lower() != "refresh" or _is_alternative(node):
        return 0.0, ""
    return float(match[1]), (match[3] or match[4] or "").strip()


def _is_alternative(node: ElementNode) -> bool:
    """Return whether an element is only for clients without scripts, or only a template."""
    parent = node.parent
    while parent is not None:
        if parent.tag in ("noscript", "template"):
            return True
        parent = parent.parent
    return False
