"""Describe why a source yields no record."""

from collections import Counter
from collections.abc import Mapping

RULE_REASONS = ("not-included", "excluded", "ignored", "not-sampled", "warc-")  # named only if there is no other
HINTS = {  # what would be right, by reason
    "json": "a row must be a JSON object",
    "format": "the files must have the format that `kind` names",
    "no-content": "`content` must name a column with text; chat messages need a `template`",
    "no-text": "the content must be text; messages and objects need a `template`",
    "csv": "a quote at the start of a cell must be closed at its end",
    "columns": "a row must not have more cells than the header",
    "encoding": "text must be UTF-8",
    "media-type": "no file has a suffix that this domain reads",
    "content-type": "the pages must be HTML, text or Markdown",
    "not-included": "a pattern of `include` must match a file; `**/` matches any folders",
    "excluded": "`exclude` must leave a file",
    "ignored": "`ignore: []` reads hidden, installed and minified files, too",
    "too-large": "`max_response_bytes` of `crawl_policy` limits the size",
    "rows-need-jsonl-source": "rows need a source of `kind: jsonl`",
    "pdf-needs-extra": "install the extra `documents`",
    "document-needs-extra": "install the extra `documents`",
    "robots": "robots.txt forbids the pages",
}


def most_frequent_reason(outcomes: Mapping[tuple[str, str], int], examples: Mapping[tuple[str, str], str]) -> str:
    """Name the most frequent reason, with an example and what would be right.

    `outcomes` and `examples` are by state and reason.
    """
    dropped = {outcome: count for outcome, count in outcomes.items() if outcome[1]}
    by_content = {outcome: count for outcome, count in dropped.items() if not outcome[1].startswith(RULE_REASONS)}
    if not dropped:
        return "no URL, file or row was found"
    (state, reason), count = Counter(by_content or dropped).most_common(1)[0]
    hint = f"; {HINTS[reason]}" if reason in HINTS else ""
    return f"{count} of {sum(outcomes.values())} {state} {reason}, first {examples[state, reason]}{hint}"
