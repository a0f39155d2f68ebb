"""The Markdown of a report and its plots in, one HTML page out that needs no other file and no network."""

import html
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any
from urllib.parse import quote

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererProtocol
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from provenlm.reporting.checks import Status
from provenlm.reporting.markdown import slug

TEMPLATE = Path(__file__).with_name("page.html")
STYLE = Path(__file__).with_name("page.css")
STATUSES = {status.value: status.name.lower() for status in Status}


def page(markdown: str, title: str, pictures: Mapping[str, bytes]) -> str:
    """`markdown` as HTML. `pictures`: SVG by the address that the Markdown gives; they become part of the page."""
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", _wide)
    parser.add_render_rule("table_close", _wide)
    parser.add_render_rule("code_inline", _name)
    tokens = parser.parse(markdown)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image" and child.attrs["src"] in pictures:
                child.attrs["src"] = f"data:image/svg+xml,{quote(pictures[str(child.attrs['src'])])}"
        _mark(token.children or ())
    contents = _anchor(tokens)
    return Template(TEMPLATE.read_bytes().decode()).substitute(
        title=html.escape(title),
        style=STYLE.read_bytes().decode(),
        contents="\n".join(f'<a class="{tag}" href="#{anchor}">{html.escape(words)}</a>' for tag, anchor, words in contents),
        body=parser.renderer.render(tokens, parser.options, {}),
    )


def _anchor(tokens: Sequence[Token]) -> list[tuple[str, str, str]]:
    """Give every heading the anchor that the Markdown links to; returns tag, anchor and words of those after the title."""
    found = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            words = "".join(child.content for child in inline.children or ())
            opening.attrSet("id", slug(words))
            found.append((opening.tag, slug(words), words))
    return found[1:]


def _mark(children: Sequence[Token]) -> None:
    """A status word that stands alone in bold gets its colour."""
    for opening, inner in itertools.pairwise(children):
        if opening.type == "strong_open" and inner.content in STATUSES:
            opening.attrSet("class", f"status {STATUSES[inner.content]}")


def _name(self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    """A long name may go on in the next line behind a point or an underscore, and nowhere else."""
    escaped = html.escape(tokens[index].content)
    return f"<code>{escaped.replace('.', '.<wbr>').replace('_', '_<wbr>')}</code>"


def _wide(self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    """A table scrolls by itself where the window is narrow."""
    return '<div class="wide"><table>' if tokens[index].nesting > 0 else "</table></div>"
