"""Text with marks in it for where its blocks begin and end in; out, laid-out text: blanks run together as in a browser, code kept to the byte."""

import re
from functools import lru_cache

PARAGRAPH, LINE, BREAK, CELL, ITEM = "\x01\x02\x03\x04\x05"  # what follows is set off so; BREAK: one line break more
PREFORMATTED_MARKS = "\x0e\x0f\x10"  # a blank, a line break and a tab of preformatted text
SPACE_RUN = re.compile("  +")
ITEM_RUN = re.compile("\x05[ \x01\x02]*")
MARK_RUN = re.compile("([\x01-\x04](?:[ \u00a0]*[\x01-\x04])* *)")


def strip_marks(text: str) -> str:
    """Text of a page, in which a mark of ours would be a forgery: U+FFFD stands for it."""
    for mark in (PARAGRAPH, LINE, BREAK, CELL, ITEM, *PREFORMATTED_MARKS):
        text = text.replace(mark, "\ufffd")
    return text


def verbatim(text: str) -> str:
    """Text to keep as it is."""
    return text.replace("\u00a0", " ").replace(" ", "\x0e").replace("\n", "\x0f").replace("\t", "\x10")


def layout_text(text: str) -> str:
    """`text` with its blanks and marks made blanks and line breaks.

    A no-break space is a blank that is meant (pydoc indents with them): it is kept, even at the start of a line.
    """
    for blank in "\t\n\r\f":
        text = text.replace(blank, " ")
    pieces = MARK_RUN.split(ITEM_RUN.sub("\x02-\u00a0", SPACE_RUN.sub(" ", text)))
    pieces[::2] = [piece.rstrip(" \u00a0") for piece in pieces[::2]]
    pieces[1::2] = [(_separator if len(run) < 64 else _separator.__wrapped__)(run) for run in pieces[1::2]]
    text = "".join(pieces).lstrip(" \n").removeprefix("| ").replace("\u00a0", " ")
    return text.replace("\x0e", " ").replace("\x0f", "\n").replace("\x10", "\t").strip("\n")


@lru_cache(maxsize=1 << 12)
def _separator(run: str) -> str:
    """What a run of marks comes to: at most one empty line, or the bar between two cells; an empty cell before it was for the eye."""
    breaks = 0
    for mark in run:
        breaks = min(2, max(breaks, 2 if mark == PARAGRAPH else mark == LINE, breaks + 1 if mark == BREAK else 0))
    return "\n" * breaks or " | "
