"""Collapse whitespace as a browser does, and keep the whitespace of code.

The input contains marks at which its blocks begin and end.
"""

import re
from functools import lru_cache

PARAGRAPH, LINE, BREAK, CELL, ITEM = "\x01\x02\x03\x04\x05"  # separators before the following text; BREAK adds one line break
EMPTY_CELL = "\U00010600"  # keeps the place of an empty table cell until the text is complete
PREFORMATTED_MARKS = "\x0e\x0f\x10"  # space, line break and tab of preformatted text
SPACE_RUN = re.compile("  +")
ITEM_RUN = re.compile("\x05[ \x01\x02]*")
MARK_RUN = re.compile("([\x01-\x04](?:[ \u00a0]*[\x01-\x04])* *)")


def strip_marks(text: str) -> str:
    """Replace marks that occur in the text of a page by U+FFFD."""
    for mark in (PARAGRAPH, LINE, BREAK, CELL, ITEM, *PREFORMATTED_MARKS):
        text = text.replace(mark, "\ufffd")
    return text


def verbatim(text: str) -> str:
    """Encode the whitespace of preformatted text so that `layout_text` keeps it."""
    return text.replace("\u00a0", " ").replace(" ", "\x0e").replace("\n", "\x0f").replace("\t", "\x10")


def layout_text(text: str) -> str:
    """Turn marks into line breaks and collapse the other whitespace.

    A no-break space is kept as a space, even at the start of a line: pydoc indents with them.
    """
    for blank in "\t\n\r\f":
        text = text.replace(blank, " ")
    pieces = MARK_RUN.split(ITEM_RUN.sub("\x02-\u00a0", SPACE_RUN.sub(" ", text)))
    pieces[::2] = [piece.rstrip(" \u00a0") for piece in pieces[::2]]
    pieces[1::2] = [(_separator if len(run) < 64 else _separator.__wrapped__)(run) for run in pieces[1::2]]
    text = "".join(pieces).lstrip(" \n").removeprefix("| ").replace("\u00a0", " ")
    return text.replace("\x0e", " ").replace("\x0f", "\n").replace("\x10", "\t").replace(EMPTY_CELL, "").strip("\n")


@lru_cache(maxsize=1 << 12)
def _separator(run: str) -> str:
    """Return the separator of a run of marks: line breaks, or a bar between cells."""
    breaks = 0
    for mark in run:
        breaks = min(2, max(breaks, 2 if mark == PARAGRAPH else mark == LINE, breaks + 1 if mark == BREAK else 0))
    return "\n" * breaks or " | "
