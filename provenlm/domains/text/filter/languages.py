"""Measure text of every script, and count stop words by language.

Statistics need words and sentence ends. Some scripts have no blanks between words; others end a sentence with a sign of their own.
`measurable_text` rewrites a text for its statistics only: nothing of it is written. Text that has none of these signs stays as it is.
"""

import re
from functools import cache

WORD_WIDTH = 5  # characters that a word of an unspaced script is padded to: about an English word

# Characters per word: approximations, chosen by hand and not measured; combining marks count as characters.
_UNSPACED_SCRIPTS = (
    ("\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff", 2),  # CJK
    ("\u0e00-\u0e7f", 4),  # Thai
    ("\u0e80-\u0eff", 4),  # Lao
    ("\u1000-\u1049\u104c-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f", 5),  # Burmese and its relatives
    ("\u1780-\u17d3\u17d7\u17db-\u17ff", 5),  # Khmer
    ("\u0f18-\u0fff", 4),  # Tibetan
    ("\u1980-\u19df\u1a20-\u1aaf\ua980-\ua9df", 5),  # New Tai Lue, Tai Tham, Javanese
)
_UNSPACED = re.compile(f"[{''.join(characters for characters, _ in _UNSPACED_SCRIPTS)}]")
_WORDS = tuple((re.compile(f"[{characters}]{{1,{length}}}"), length) for characters, length in _UNSPACED_SCRIPTS)
MIN_UNSPACED_FRACTION = 0.1  # of the characters; a few quoted characters do not change how a text is measured

# CJK, Arabic, Urdu, Devanagari, Ethiopic, Armenian, Burmese, Khmer, Tibetan; with the closing quotation marks that may follow.
_SENTENCE_END_SIGNS = "。｡！？．؟۔।॥።፧։။។៕།༎"
_SENTENCE_END = re.compile(f" ?[{_SENTENCE_END_SIGNS}]+[」』”’»）]*")
_BLANKS = re.compile("[\u3000\u200b\u0f0b]")  # ideographic space, zero-width space (Khmer, Thai), Tibetan tsheg
_LAST_SENTENCE_END = re.compile(_SENTENCE_END.pattern + r"\s*$")
_SEPARATORS = re.compile(r"[\s!-/:-@\[-`{-~،؛؟۔।॥«»“”„’…–—]+")  # between words that may be stop words
MAX_STOP_WORD_BYTES = 16_000  # of a text are searched; a few stop words are enough for every threshold


def measurable_text(content: bytes) -> bytes:
    """Return `content` with blanks between words and with ASCII sentence ends.

    Where a tenth of the characters are of unspaced scripts, their runs are cut into words of the script's usual length, each padded to
    WORD_WIDTH, so that thresholds on words and lines mean the same as in English. Invalid UTF-8 stays as it is.
    """
    if content.isascii():
        return content
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return content
    if len(_UNSPACED.findall(text)) >= MIN_UNSPACED_FRACTION * len(text):
        text = _BLANKS.sub(" ", text)
        for words, length in _WORDS:
            text = words.sub(rf"\g<0>{'x' * max(0, WORD_WIDTH - length)} ", text)
    return _SENTENCE_END.sub(". ", text).encode()


def ends_sentence(line: bytes) -> bool:
    """Return whether a line ends a sentence by a sign of a script other than Latin."""
    return not line.isascii() and _LAST_SENTENCE_END.search(line.decode("utf-8", "ignore")) is not None


@cache
def stop_words(language: str) -> frozenset[str]:
    """Return the stop words of a language (ISO 639-1); empty if it has no list."""
    import stopwordsiso

    code = {"nb": "no", "nn": "no"}.get(language, language)
    words = stopwordsiso.stopwords(code) if stopwordsiso.has_lang(code) else ()
    return frozenset(word for word in words if any(map(str.isalpha, word)))


def count_stop_words(content: bytes, language: str) -> float:
    """Count the distinct stop words of `language` in `content`.

    NaN, which no threshold drops, if there is no list for the language. In an unspaced script a stop word counts wherever it stands.
    """
    words = stop_words(language)
    if not words:
        return float("nan")
    text = content[:MAX_STOP_WORD_BYTES].decode("utf-8", "ignore").lower()
    if _UNSPACED.search("".join(words)):
        return float(sum(word in text for word in words))
    return float(len(words.intersection(_SEPARATORS.split(text))))
