"""A project folder for stages of a corpus to run in: params in, records in, an audit out."""

import importlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from provenlm.core import audit
from provenlm.core import records as record
from provenlm.core.paths import ProjectPaths
from provenlm.core.records import Record
from stages import runner

CORPUS = {
    "domain": "text",
    "scrape": {},
    "filter": {
        "least": 0.5,
        "words": [3, 6, 2000, 4000],
        "word_length": [1, 2, 12, 24],
        "letter_words": [0.2, 0.5],
        "stop_words": [-1, 0],
        "symbol_words": [0.1, 0.5],
        "digits": [0.3, 0.6],
        "control": [0.0005, 0.01],
        "long_words": [0.3, 0.6],
        "short_lines": [1, 2],
        "repeated_lines": [0.5, 0.9],
        "top_bigram": [0.6, 0.9],
        "repeated_ngrams": [0.5, 0.9],
    },
    "dedupe": {"near": 0.7, "words": 3, "characters": 5},
    "tokenize": {"vocabulary": 512, "sample_bytes": 1_000_000, "character_coverage": 0.9995, "held_out": 0.2},
}


class Project:
    """One corpus named `c` below `root`."""

    sections = CORPUS

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.paths = ProjectPaths(root)
        self.patch = patch
        patch.chdir(root)
        self.write_params()

    def write_params(self, **sections: Any) -> None:
        """Write params.yaml; `sections` replace those of CORPUS."""
        text = json.dumps({"corpora": {"c": CORPUS | sections}, "recipes": {}, "reports": {}})
        self.paths.params_yaml.write_text(text)

    def write_corpus(self, step: str, records: Iterable[Record]) -> None:
        record.write_records(records, self.paths.corpus_dir("c", step))

    def records(self, step: str) -> list[Record]:
        return list(record.read_records(self.paths.corpus_dir("c", step)))

    def run(self, name: str) -> audit.Audit:
        """The stage `name` on the corpus, as its command line runs it. SystemExit with the message on a user's mistake."""
        module = importlib.import_module(f"stages.{name}")
        self.patch.setattr(sys, "argv", [name, "c"])
        runner.main(name, "corpora", module.body, module.__doc__)
        return self.audit(name)

    def audit(self, name: str) -> audit.Audit:
        return audit.read_audit(self.paths.audit_json("c", name))

    def values(self, name: str) -> dict[str, Any]:
        return {key: metric.value for key, metric in self.audit(name).metrics.items()}

    def write_scraped(self, records: list[Record]) -> None:
        """What the scrape stage leaves: the records, and their number and bytes in its audit."""
        self.write_corpus("scraped", records)
        recorder = audit.MetricRecorder()
        recorder.add_count("records", len(records), "records", "records")
        for name, value in (("urls.seen", len(records)), ("urls.skipped", 0), ("urls.failed", 0), ("download.bytes", 10**6)):
            recorder.add_count(name, value, "", name)
        recorder.add_count("bytes", sum(len(item.content) for item in records), "bytes", "bodies")
        audit.write_audit(self.paths.audit_json("c", "scrape"), audit.Audit("c", "scrape", recorder.metrics, [], [], {}))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    return Project(tmp_path, monkeypatch)
