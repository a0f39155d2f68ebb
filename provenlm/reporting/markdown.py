"""Words and values in, Markdown out. Text from outside is escaped, so that it can show itself and do nothing else."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NewType
from urllib.parse import quote

Markdown = NewType("Markdown", str)  # safe to stand on a page; plain text becomes it by `text` alone

MARKUP_CHARS = re.compile(r"[\\`*_\[\]<>|~!#$^={}]")
# A bare address becomes a link on many hosts though nobody wrote one; an entity shows the same sign and starts none.
ENTITIES = (("&", "&amp;"), ("://", "&colon;//"), ("@", "&commat;"))
WWW_DOT = re.compile(r"(?<=www)\.", re.IGNORECASE)
HIDDEN_CATEGORIES = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
MAX_TEXT_CHARS = 400  # characters of one piece of text that a page shows; the audit holds all


def escape(raw: str) -> Markdown:
    """`words` as text and nothing else: no markup, link, line break, control or direction sign survives."""
    cleaned = replace_control_chars(raw[:MAX_TEXT_CHARS])
    for match, entity in ENTITIES:
        cleaned = cleaned.replace(match, entity)
    escaped = WWW_DOT.sub("&period;", MARKUP_CHARS.sub(lambda match: f"\\{match[0]}", cleaned))
    return Markdown(f"{escaped}…" if len(raw) > MAX_TEXT_CHARS else escaped)


def code(raw: str) -> Markdown:
    """`words` in fixed width. A name with signs that a code span cannot hold is set as text."""
    return Markdown(f"`{raw}`") if raw and re.fullmatch(r"[\w./@+:<>=*, -]+", raw, re.ASCII) else escape(raw)


def link(label: Markdown, target: str, title: str) -> Markdown:
    """`shown` as a link to `target`, a path or a #heading of the page; `title` appears under the pointer."""
    return Markdown(
        f'[{label}]({_quote_target(target)} "{_escape_title(title)}")' if title else f"[{label}]({_quote_target(target)})"
    )


def image(alt: str, target: str) -> Markdown:
    return Markdown(f"![{escape(alt)}]({_quote_target(target)})")


def bold(content: Markdown) -> Markdown:
    """`shown` in bold. Blanks at its ends would make the stars stand for themselves, so they are written as signs."""
    padded = re.sub(r"^ +| +$", lambda blanks: "&nbsp;" * len(blanks[0]), content)
    return Markdown(f"**{padded}**")


def heading(depth: int, content: Markdown) -> Markdown:
    return Markdown(f"{'#' * depth} {content}")


def table(columns: Sequence[Markdown], rows: Iterable[Sequence[Markdown]], numeric: Sequence[bool]) -> Markdown:
    """A table; the columns marked `numeric` are set flush right."""
    rule = ["---:" if right else "---" for right in numeric]
    lines = [columns, rule, *rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def bullet_list(items: Iterable[Markdown]) -> Markdown:
    return Markdown("\n".join(f"- {item}" for item in items))


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub makes it: small letters, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def replace_control_chars(raw: str) -> str:
    """`words` without line breaks, control and direction signs, each replaced by a sign that says that it was there."""
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
