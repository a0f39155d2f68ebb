"""Provide a project folder in which the stages of a corpus run."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from in_process import run_stage

from provenlm.core import audit
from provenlm.core.paths import ProjectPaths
from provenlm.core.records import Record, read_records, write_records

CORPUS = {
    "domain": "text",
    "scrape": {},
    "filter": {
        **dict.fromkeys(("profiles", "quality_rules", "pii", "language_filter")),
        "doc_words": {"drop_below": 3, "good_from": 6, "good_to": 2000, "drop_above": 4000},
        "avg_word_length": {"drop_below": 1, "good_from": 2, "good_to": 12, "drop_above": 24},
        "stop_words": {"drop_below": -1, "good_from": 0},
        "digit_ratio": {"good_to": 0.3, "drop_above": 0.6},
        "short_line_ratio": {"good_to": 1, "drop_above": 2},
        "top_2_gram_frac": {"good_to": 0.6, "drop_above": 0.9},
    },
    "dedupe": {"jaccard_threshold": 0.7, "ngram_words": 3, "ngram_chars": 5, "paragraph_dedup": None},
    "tokenize": {"vocab_size": 512, "sample_bytes": 1_000_000, "character_coverage": 0.9995, "val_fraction": 0.2},
}


class Project:
    """Hold a project with one corpus named `c`."""

    sections = CORPUS

    def __init__(self, root: Path, patch: pytest.MonkeyPatch) -> None:
        self.paths = ProjectPaths(root)
        patch.chdir(root)
        self.write_params()

    def write_params(self, **sections: Any) -> None:
        """Write params.yaml; `sections` replace those of CORPUS."""
        text = json.dumps({"corpora": {"c": CORPUS | sections}, "recipes": {}, "reports": {}})
        self.paths.params_yaml.write_text(text)

    def write_corpus(self, step: str, records: Iterable[Record]) -> None:
        write_records(records, self.paths.corpus_dir("c", step))

    def records(self, step: str) -> list[Record]:
        return list(read_records(self.paths.corpus_dir("c", step)))

    def run(self, name: str) -> audit.Audit:
        """Run a stage and return its audit. Raises SystemExit with the output of a stage that fails."""
        result = run_stage(self.paths.root, name, "c")
        if result.returncode:
            raise SystemExit(result.stderr)
        return self.audit(name)

    def audit(self, name: str) -> audit.Audit:
        return audit.read_audit(self.paths.audit_json("c", name))

    def values(self, name: str) -> dict[str, Any]:
        return {key: metric.value for key, metric in self.audit(name).metrics.items()}

    def write_scraped(self, records: list[Record]) -> None:
        """Write records and audit as the scrape stage does."""
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
