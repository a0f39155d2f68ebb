"""Apply the C4 rules on lines and bad words.

Raffel et al., arXiv 1910.10683, section 2.2, made for prose on the web; phrases and order are those of the published code. Blank lines
are kept. Whitespace around a line is ignored.
"""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from provenlm.core.errors import ConfigError
from provenlm.domains.text.filter.languages import ends_sentence, measurable_text

CITATION = re.compile(rb"\[\d*\]|\[edit\]|\[citation needed\]")
TERMINAL_PUNCTUATION = (b".", b"?", b"!", b'"', b"'")
POLICY_PHRASES = ("terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies")

CleanedText = tuple[bytes, Mapping[str, int], str | None]


@dataclass(frozen=True, kw_only=True)
class C4LineConfig:
    """Configure the C4 line filter.

    filter_no_terminal_punct: a line must end in . ? ! or a quotation mark, or in its script's sentence end, and not in an ellipsis (FineWeb omits this, arXiv 2406.17557).
    min_words_per_line: shorter lines are removed.
    max_word_length: lines with a longer word, in characters, are removed.
    banned_phrases: lines that contain one are removed; case is ignored.
    remove_citations: remove [1], [edit] and [citation needed].
    bad_words_file: file of words or phrases, one per line; a text that contains one is dropped, as is one that contains `lorem ipsum`.
    """

    filter_no_terminal_punct: bool = True
    min_words_per_line: int = 3
    max_word_length: int = 1000
    banned_phrases: tuple[str, ...] = ("javascript", *POLICY_PHRASES)
    remove_citations: bool = True
    bad_words_file: str | None = None


def make_line_cleaner(config: C4LineConfig) -> Callable[[bytes], CleanedText]:
    """Build the function that cleans a text.

    It returns the text without the removed lines, the removals by metric name, and a drop reason or None.

    Raises ConfigError if the file of bad words is missing or empty.
    """
    phrases, bad_words_pattern = (
        [phrase.lower().encode() for phrase in config.banned_phrases],
        compile_bad_words(config.bad_words_file),
    )

    def drop_reason(line: bytes) -> str | None:
        words = measurable_text(line).split()
        if any(len(word) > config.max_word_length for word in words):
            return "too_long_word"
        if config.filter_no_terminal_punct and (
            line.endswith(b"...") or not (line.endswith(TERMINAL_PUNCTUATION) or ends_sentence(line))
        ):
            return "no_terminal_punct"
        if len(words) < config.min_words_per_line:
            return "too_few_words"
        lower = line.lower()
        return "banned_phrase" if any(phrase in lower for phrase in phrases) else None

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
    """Compile a pattern that finds the words of a file at word boundaries.

    Raises ConfigError if the file cannot be used.
    """
    if path is None:
        return None
    try:
        words = [re.escape(word.strip().lower()) for word in Path(path).read_text("utf-8").splitlines() if word.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"filter.line_filter.bad_words_file must be a readable text file, got {path}: {error}") from None
    if not words:
        raise ConfigError(f"filter.line_filter.bad_words_file must contain a word, got {path}")
    return re.compile(rf"(?<!\w)(?:{'|'.join(words)})(?!\w)")
