"""Words and values in, Markdown out. Text from outside is escaped, so that it can show itself and do nothing else."""

import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import NewType
from urllib.parse import quote

Markdown = NewType("Markdown", str)  # safe to stand on a page; plain text becomes it by `text` alone

SPECIAL = re.compile(r"[\\`*_\[\]<>|~!#$^={}]")
# A bare address becomes a link on many hosts though nobody wrote one; an entity shows the same sign and starts none.
ENTITIES = (("&", "&amp;"), ("://", "&colon;//"), ("@", "&commat;"))
WORLD = re.compile(r"(?<=www)\.", re.IGNORECASE)
HIDDEN = {"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"}
LONGEST = 400  # characters of one piece of text that a page shows; the audit holds all


def text(words: str) -> Markdown:
    """`words` as text and nothing else: no markup, link, line break, control or direction sign survives."""
    shown = visible(words[:LONGEST])
    for sign, entity in ENTITIES:
        shown = shown.replace(sign, entity)
    escaped = WORLD.sub("&period;", SPECIAL.sub(lambda sign: f"\\{sign[0]}", shown))
    return Markdown(f"{escaped}…" if len(words) > LONGEST else escaped)


def code(words: str) -> Markdown:
    """`words` in fixed width. A name with signs that a code span cannot hold is set as text."""
    return Markdown(f"`{words}`") if words and re.fullmatch(r"[\w./@+:<>=*, -]+", words, re.ASCII) else text(words)


def link(shown: Markdown, target: str, title: str) -> Markdown:
    """`shown` as a link to `target`, a path or a #heading of the page; `title` appears under the pointer."""
    return Markdown(f'[{shown}]({_address(target)} "{_title(title)}")' if title else f"[{shown}]({_address(target)})")


def image(meaning: str, target: str) -> Markdown:
    return Markdown(f"![{text(meaning)}]({_address(target)})")


def strong(shown: Markdown) -> Markdown:
    """`shown` in bold. Blanks at its ends would make the stars stand for themselves, so they are written as signs."""
    kept = re.sub(r"^ +| +$", lambda blanks: "&nbsp;" * len(blanks[0]), shown)
    return Markdown(f"**{kept}**")


def heading(depth: int, shown: Markdown) -> Markdown:
    return Markdown(f"{'#' * depth} {shown}")


def table(columns: Sequence[Markdown], rows: Iterable[Sequence[Markdown]], numeric: Sequence[bool]) -> Markdown:
    """A table; the columns marked `numeric` are set flush right."""
    rule = ["---:" if right else "---" for right in numeric]
    lines = [columns, rule, *rows]
    return Markdown("\n".join(f"| {' | '.join(line)} |" for line in lines))


def bullets(items: Iterable[Markdown]) -> Markdown:
    return Markdown("\n".join(f"- {item}" for item in items))


def slug(title: str) -> str:
    """The anchor of a heading, as GitHub makes it: small letters, no punctuation, hyphens for spaces."""
    return re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def visible(words: str) -> str:
    """`words` without line breaks, control and direction signs, each replaced by a sign that says that it was there."""
    return "".join(_visible(letter) for letter in words)


def _visible(letter: str) -> str:
    if letter == "\n":
        return "⏎"
    if letter == "\t":
        return " "
    return "\N{REPLACEMENT CHARACTER}" if unicodedata.category(letter) in HIDDEN else letter


def _title(words: str) -> str:
    return visible(words).replace("&", "&amp;").replace("\\", "\\\\").replace('"', '\\"').replace("|", "\\|").replace("<", "&lt;")


def _address(target: str) -> str:
    return quote(target, safe="/#._-")
