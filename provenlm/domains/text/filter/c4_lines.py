"""A text in; out, the text less the lines that C4 leaves out, how many for which reason, and why the text itself goes, if it does.

Raffel et al., arXiv 1910.10683, section 2.2, made for prose on the web; the phrases and the order are those of its published code. Blank
lines stay. Whitespace around a line is not looked at.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.errors import UserError

CITATION = re.compile(rb"\[\d*\]|\[edit\]|\[citation needed\]")
ENDS = (b".", b"?", b"!", b'"', b"'")
POLICIES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")

Cleaned = tuple[bytes, Mapping[str, int], str | None]


@dataclass(frozen=True, kw_only=True)
class Lines:
    """`ended`: a line must end in . ? ! or a quotation mark, and not in an ellipsis (FineWeb leaves this out, arXiv 2406.17557); `words`:
    the fewest of a line; `longest_word`: characters, a line with a longer one goes; `phrases`: a line that holds one goes, in any case;
    `citations`: whether [1], [edit] and [citation needed] are taken out. `bad_words`: a file of words or phrases, one a line; a text that
    holds one is dropped, as is one that holds `lorem ipsum`."""

    ended: bool = True
    words: int = 3
    longest_word: int = 1000
    phrases: tuple[str, ...] = ("javascript", *POLICIES)
    citations: bool = True
    bad_words: str | None = None


def cleaning(asked: Lines) -> Callable[[bytes], Cleaned]:
    """UserError if the file of bad words is not there or holds none."""
    phrases, bad = [phrase.lower().encode() for phrase in asked.phrases], bad_words(asked.bad_words)

    def reason(line: bytes) -> str | None:
        words = line.split()
        if any(len(word) > asked.longest_word for word in words):
            return "long_word"
        if asked.ended and (not line.endswith(ENDS) or line.endswith(b"...")):
            return "not_ended"
        if len(words) < asked.words:
            return "few_words"
        lower = line.lower()
        return "phrase" if any(phrase in lower for phrase in phrases) else None

    def cleaned(body: bytes) -> Cleaned:
        kept, found = list[bytes](), Counter[str]()
        for line in body.split(b"\n"):
            if asked.citations and b"[" in line:
                line, count = CITATION.subn(b"", line)
                found["citations"] += count
            solid = line.strip()
            if why := reason(solid) if solid else None:
                found[why] += 1
            else:
                kept.append(line)
        lower = body.lower()
        dropped = "lorem_ipsum" if b"lorem ipsum" in lower else "bad_word" if bad and bad.search(lower.decode()) else None
        return b"\n".join(kept), {f"lines.{name}": count for name, count in found.items() if count}, dropped

    return cleaned


def bad_words(file: str | None) -> re.Pattern[str] | None:
    """What finds one of the words of `file` where no letter or digit touches it."""
    if file is None:
        return None
    try:
        words = [re.escape(word.strip().lower()) for word in Path(file).read_text("utf-8").splitlines() if word.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"filter.lines.bad_words: {file}: not a text file that can be read: {error}") from None
    if not words:
        raise UserError(f"filter.lines.bad_words: {file}: no word in it")
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)")
