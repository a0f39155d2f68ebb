"""Render the Markdown of a report and its plots as one self-contained HTML page."""

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

from provenlm.reporting.checks import CheckStatus
from provenlm.reporting.markdown import slug

TEMPLATE = Path(__file__).with_name("page.html")
STYLE = Path(__file__).with_name("page.css")
STATUS_CLASSES = {status.value: status.name.lower() for status in CheckStatus}


def render_html(markdown: str, title: str, svgs: Mapping[str, bytes], sections: Mapping[str, str] | None = None) -> str:
    """Render `markdown` as HTML with embedded `svgs`.

    `svgs` maps the image links of the Markdown to SVG data; `sections` maps the anchor of a heading to HTML that is added at the end of
    its section.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    parser.add_render_rule("table_open", _render_table_tag)
    parser.add_render_rule("table_close", _render_table_tag)
    parser.add_render_rule("code_inline", _render_code)
    tokens = parser.parse(markdown)
    for token in tokens:
        for child in token.children or ():
            if child.type == "image" and child.attrs["src"] in svgs:
                child.attrs["src"] = f"data:image/svg+xml,{quote(svgs[str(child.attrs['src'])])}"
        _color_status(token.children or ())
    contents = _add_anchors(tokens)
    for anchor, section in (sections or {}).items():
        block = Token("html_block", "", 0, content=section)
        tokens.insert(_section_end(tokens, anchor), block)
    return Template(TEMPLATE.read_bytes().decode()).substitute(
        title=html.escape(title),
        style=STYLE.read_bytes().decode(),
        contents="\n".join(
            f'<a class="{tag}" href="#{anchor}">{html.escape(title_text)}</a>' for tag, anchor, title_text in contents
        ),
        body=parser.renderer.render(tokens, parser.options, {}),
    )


def _add_anchors(tokens: Sequence[Token]) -> list[tuple[str, str, str]]:
    """Set the anchor of every heading.

    Return tag, anchor and title of all headings after the first.
    """
    headings = []
    for opening, inline in itertools.pairwise(tokens):
        if opening.type == "heading_open":
            title = "".join(child.content for child in inline.children or ())
            opening.attrSet("id", slug(title))
            headings.append((opening.tag, slug(title), title))
    return headings[1:]


def _section_end(tokens: Sequence[Token], anchor: str) -> int:
    """Return the index after the last token of the section with this anchor. Raise ValueError if there is none."""
    starts = [index for index, token in enumerate(tokens) if token.type == "heading_open" and token.attrs.get("id") == anchor]
    if not starts:
        raise ValueError(f"anchor must be that of a heading, got {anchor!r}")
    tag = tokens[starts[0]].tag
    ends = [
        index for index in range(starts[0] + 1, len(tokens)) if tokens[index].type == "heading_open" and tokens[index].tag <= tag
    ]
    return ends[0] if ends else len(tokens)


def _color_status(children: Sequence[Token]) -> None:
    """Set the CSS class of each bold text that consists of a check status."""
    for opening, inner in itertools.pairwise(children):
        if opening.type == "strong_open" and inner.content in STATUS_CLASSES:
            opening.attrSet("class", f"status {STATUS_CLASSES[inner.content]}")


def _render_code(self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    """Render a code span that can break only after a dot or an underscore."""
    escaped = html.escape(tokens[index].content)
    return f"<code>{escaped.replace('.', '.<wbr>').replace('_', '_<wbr>')}</code>"


def _render_table_tag(self: RendererProtocol, tokens: Sequence[Token], index: int, options: OptionsDict, env: Any) -> str:
    """Wrap a table so that it scrolls on its own in a narrow window."""
    return '<div class="wide"><table>' if tokens[index].nesting > 0 else "</table></div>"
