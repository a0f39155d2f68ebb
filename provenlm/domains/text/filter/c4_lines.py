"""A text in; out, the text less the lines that C4 leaves out, how many for which reason, and why the text itself goes, if it does.

Raffel et al., arXiv 1910.10683, section 2.2, made for prose on the web; the phrases and the order are those of its published code. Blank
lines stay. Whitespace around a line is not looked at.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.errors import ProvenlmError

CITATION = re.compile(rb"\[\d*\]|\[edit\]|\[citation needed\]")
TERMINAL_PUNCTUATION = (b".", b"?", b"!", b'"', b"'")
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")

CleanedText = tuple[bytes, Mapping[str, int], str | None]


@dataclass(frozen=True, kw_only=True)
class C4LineConfig:
    """`ended`: a line must end in . ? ! or a quotation mark, and not in an ellipsis (FineWeb leaves this out, arXiv 2406.17557); `words`:
    the fewest of a line; `longest_word`: characters, a line with a longer one goes; `phrases`: a line that holds one goes, in any case;
    `citations`: whether [1], [edit] and [citation needed] are taken out. `bad_words`: a file of words or phrases, one a line; a text that
    holds one is dropped, as is one that holds `lorem ipsum`."""

    filter_no_terminal_punct: bool = True
    min_words_per_line: int = 3
    max_word_length: int = 1000
    banned_phrases: tuple[str, ...] = ("javascript", *POLICY_PHRASES)
    remove_citations: bool = True
    bad_words_file: str | None = None


def make_line_cleaner(config: C4LineConfig) -> Callable[[bytes], CleanedText]:
    """ProvenlmError if the file of bad words is not there or holds none."""
    phrases, bad_words_pattern = (
        [phrase.lower().encode() for phrase in config.banned_phrases],
        compile_bad_words(config.bad_words_file),
    )

    def drop_reason(line: bytes) -> str | None:
        words = line.split()
        if any(len(word) > config.max_word_length for word in words):
            return "long_word"
        if config.filter_no_terminal_punct and (not line.endswith(TERMINAL_PUNCTUATION) or line.endswith(b"...")):
            return "not_ended"
        if len(words) < config.min_words_per_line:
            return "few_words"
        lower = line.lower()
        return "phrase" if any(phrase in lower for phrase in phrases) else None

    def clean(content: bytes) -> CleanedText:
        kept_lines, counts = list[bytes](), Counter[str]()
        for line in content.split(b"\n"):
            if config.remove_citations and b"[" in line:
                line, count = CITATION.subn(b"", line)
                counts["citations"] += count
            stripped = line.strip()
            if line_reason := drop_reason(stripped) if stripped else None:
                counts[line_reason] += 1
            else:
                kept_lines.append(line)
        lower = content.lower()
        text_reason = (
            "lorem_ipsum"
            if b"lorem ipsum" in lower
            else "bad_word"
            if bad_words_pattern and bad_words_pattern.search(lower.decode())
            else None
        )
        return b"\n".join(kept_lines), {f"lines.{name}": count for name, count in counts.items() if count}, text_reason

    return clean


def compile_bad_words(path: str | None) -> re.Pattern[str] | None:
    """What finds one of the words of `file` where no letter or digit touches it."""
    if path is None:
        return None
    try:
        words = [re.escape(word.strip().lower()) for word in Path(path).read_text("utf-8").splitlines() if word.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ProvenlmError(f"filter.lines.bad_words: {path}: not a text file that can be read: {error}") from None
    if not words:
        raise ProvenlmError(f"filter.lines.bad_words: {path}: no word in it")
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)")
