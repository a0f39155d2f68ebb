"""Build Markdown.

External text is escaped so that it is displayed and cannot act as markup.
"""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NewType
from urllib.parse import quote

Markdown = NewType("Markdown", str)  # safe to put on a page; only `escape` converts plain text

MARKUP_CHARS = re.compile(r"[\\`*_\[\]<>|~!#$^={}]")
# Many renderers turn a bare URL into a link; an entity displays the same character and starts no link.
ENTITIES = (("&", "&amp;"), ("://", "&colon;//"), ("@", "&commat;"))
WWW_DOT = re.compile(r"(?<=www)\.", re.IGNORECASE)
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MAX_TEXT_CHARS = 400  # longer text is cut on the page; the audit holds all of it


def escape(raw: str) -> Markdown:
    """Escape markup, links, line breaks, control and direction characters in text."""
    cleaned = replace_control_chars(raw[:MAX_TEXT_CHARS])
    for match, entity in ENTITIES:
        cleaned = cleaned.replace(match, entity)
    escaped = WWW_DOT.sub("&period;", MARKUP_CHARS.sub(lambda match: f"\\{match[0]}", cleaned))
    return Markdown(f"{escaped}…" if len(raw) > MAX_TEXT_CHARS else escaped)


def code(raw: str) -> Markdown:
    """Format a name as a code span, or as escaped text if no code span can hold it."""
    return Markdown(f"`{raw}`") if raw and re.fullmatch(r"[\w./@+:<>=*, -]+", raw, re.ASCII) else escape(raw)


def link(label: Markdown, target: str, title: str) -> Markdown:
    """Link `label` to `target`, a path or a #heading of the page.

    `title` appears on hover.
    """
    return Markdown(
        f'[{label}]({_quote_target(target)} "{_escape_title(title)}")' if title else f"[{label}]({_quote_target(target)})"
    )


def image(alt: str, target: str) -> Markdown:
    """Embed the image at `target`."""
    return Markdown(f"![{escape(alt)}]({_quote_target(target)})")


def bold(content: Markdown) -> Markdown:
    """Format `content` in bold.

    Spaces at its ends become entities, because Markdown would show the stars otherwise.
    """
    padded = re.sub(r"^ +| +$", lambda blanks: "&nbsp;" * len(blanks[0]), content)
    return Markdown(f"**{padded}**")


def heading(depth: int, content: Markdown) -> Markdown:
    """Format a heading of level `depth`."""
    return Markdown(f"{'#' * depth} {content}")


def table(columns: Sequence[Markdown], rows: Iterable[Sequence[Markdown]], numeric: Sequence[bool]) -> Markdown:
    """Format a table; the columns marked `numeric` are right-aligned."""
    rule = ["---:" if right else "---" for right in numeric]
    lines = [columns, rule, *rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def bullet_list(items: Iterable[Markdown]) -> Markdown:
    """Format a bullet list."""
    return Markdown("\n".join(f"- {item}" for item in items))


def slug(title: str) -> str:
    """Return GitHub's anchor of a heading.

    It is in lower case, without punctuation, with hyphens for spaces.
    """
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def replace_control_chars(raw: str) -> str:
    """Replace line breaks, control and direction characters with visible characters."""
    return "".join(_replace_control_char(char) for char in raw)


def _replace_control_char(char: str) -> str:
    if char == "\n":
        return "⏎"
    if char == "\t":
        return " "
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(char) in HIDDEN_CATEGORIES else char


def _escape_title(raw: str) -> str:
    return (
        replace_control_chars(raw)
        .replace("&", "&amp;")
        .replace("\\", "\\\\")
        .replace('"', '\\"')
        .replace("|", "\\|")
        .replace("<", "&lt;")
    )


def _quote_target(target: str) -> str:
    return quote(target, safe="/#._-")
