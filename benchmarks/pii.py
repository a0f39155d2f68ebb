"""Measure precision and recall of finding personal data, beside datatrove's PIIFormatter.

The lines and their labels are tests/domains/text/pii_lines.txt, written for this project together with its patterns: the numbers say
which kinds each side handles, not how often they occur. datatrove looks for e-mail and IP addresses only. A match counts if its text
is that of a label.
"""

import argparse
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from comparisons import results
from comparisons.results import ResultRow

from provenlm.domains.text.filter import pii

LINES = Path(__file__).resolve().parents[1] / "tests/domains/text/pii_lines.txt"
LABEL = re.compile(r"\[\[(email|ip|phone|secret):(.*?)\]\]")
Finder = Callable[[str], list[tuple[str, str]]]


def find_ours(text: str) -> list[tuple[str, str]]:
    """Find personal data with this project."""
    content = text.encode()
    return [(match.kind, content[match.start : match.end].decode()) for match in pii.find_pii(content)]


def make_datatrove_finder() -> Finder | None:
    """Build the finder of datatrove's patterns and validators, or None if it is missing."""
    try:
        from datatrove.pipeline.formatters import PIIFormatter
    except ImportError:
        return None
    formatter = PIIFormatter()
    replacers = {"email": formatter.emails_replacer, "ip": formatter.ip_replacer}

    def find(text: str) -> list[tuple[str, str]]:
        return [
            (kind, match[0])
            for kind, replacer in replacers.items()
            for match in replacer.regex.finditer(text)
            if replacer.validator is None or replacer.validator(match[0])
        ]

    return find


def measure(name: str, find: Finder, kinds: tuple[str, ...]) -> list[ResultRow]:
    """Compute precision and recall by kind."""
    rows, found, true, labelled = [], Counter[str](), Counter[str](), Counter[str]()
    for line in LINES.read_text(encoding="utf-8").splitlines():
        labels = Counter(LABEL.findall(line))
        matches = Counter(find(LABEL.sub(lambda label: label[2], line)))
        for counts, values in ((found, matches), (true, labels & matches), (labelled, labels)):
            for (kind, _), count in values.items():
                counts[kind] += count
    for kind in kinds:
        precision, recall = true[kind] / max(1, found[kind]), true[kind] / max(1, labelled[kind])
        print(f"  {name:12}{kind:8}precision {precision:.3f}  recall {recall:.3f}  of {labelled[kind]} labels")
        rows += [
            ResultRow(f"{kind}: {name}, precision", precision, "fraction"),
            ResultRow(f"{kind}: {name}, recall", recall, "fraction"),
        ]
    return rows


def main() -> None:
    """Measure both and write the results."""
    parser = argparse.ArgumentParser(description=__doc__)
    results.add_arguments(parser, "the same: it takes a second")
    options = parser.parse_args()
    rows = measure("Provenlm", find_ours, ("email", "ip", "phone", "secret"))
    if peer := make_datatrove_finder():
        rows += measure("datatrove", peer, ("email", "ip"))
    else:
        print("  datatrove: skipped, it is not installed")
    results.save_results("pii", rows, options)


if __name__ == "__main__":
    main()
