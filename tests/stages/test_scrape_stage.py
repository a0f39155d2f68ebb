"""Test the scrape stage as DVC runs it, on the embedded pydoc site and on a missing site."""

import hashlib
import json
import os
import socket
import subprocess
from pathlib import Path

import pandas as pd
import pytest
from in_process import run_stage

from provenlm.core import audit, hashing, records
from provenlm.scraping.state_folder import hold_lock

ROOT = Path(__file__).resolve().parents[2]
PARAMS = """
corpora:
  docs:
    domain: text
    scrape:
      sources:
        - kind: site
          start_urls: [START]
          limits:
            {scope: folder, include: [], exclude: [], max_pages: 100, max_bytes: 100000000, max_depth: 9, max_url_variants: 99}
          license: null
      crawl_policy:
        user_agent_contact: "mailto:tests@example.org"
        download_delay_seconds: 0.0
        timeout_seconds: 10.0
        max_attempts: 1
        max_retry_after_seconds: 1.0
        max_response_bytes: 2000000
        allowed_private_hosts: ["127.0.0.1"]
      topics: []
      from_cache: false
    filter: {}
    dedupe: {}
    tokenize: {}
recipes: {}
reports: {}
"""


def scrape(folder: Path, start: str) -> subprocess.CompletedProcess[str]:
    (folder / "params.yaml").write_text(PARAMS.replace("START", start), encoding="utf-8")
    return run_stage(folder, "scrape", "docs")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    result = scrape(folder, "pydoc:requests, pydoc:urllib3")
    assert result.returncode == 0, result.stderr
    return folder


def test_every_url_is_accounted_for(project: Path) -> None:
    metrics = {name: metric.value for name, metric in audit.read_audit(project / "reports/audits/docs/scrape.json").metrics.items()}
    fetches = pd.read_parquet(project / "data/docs/fetches/fetches.parquet")
    assert metrics["urls.seen"] == len(fetches) == metrics["records"] + metrics["urls.skipped"] + metrics["urls.failed"]
    assert metrics["unaccounted"] == 0
    assert metrics["records"] == records.count_records(project / "data/docs/scraped") == (fetches.state == "record").sum()
    assert metrics["urls.failed.http-404"] == (fetches.reason == "http-404").sum() > 0
    assert fetches.url.is_unique
    assert list(fetches.columns) == ["url", "state", "reason", "status", "received_bytes", "attempts", "seconds", "fetched_at"]


def test_the_metrics_agree_with_the_records(project: Path) -> None:
    metrics = audit.read_audit(project / "reports/audits/docs/scrape.json")
    sizes = [len(item.content) for item in records.read_records(project / "data/docs/scraped")]
    assert metrics.metrics["bytes"].value == sum(sizes)
    assert sum(metrics.series[0].y_values["records"]) == len(sizes)
    assert {row[0]: row[1] for row in metrics.tables[0].rows}.keys() == {"pydoc:requests", "pydoc:urllib3"}
    assert sum(row[2] for row in metrics.tables[0].rows) == sum(sizes)


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.glob("[0-9]*.parquet"))}


def test_a_second_scrape_writes_the_same_shards_without_downloads(project: Path) -> None:
    before = hashing.sha256_path(project / "data/docs/scraped")
    assert scrape(project, "pydoc:requests, pydoc:urllib3").returncode == 0
    assert hashing.sha256_path(project / "data/docs/scraped") == before  # the only dependency of the filter stage
    metrics = json.loads((project / "reports/audits/docs/scrape.json").read_text())["metrics"]
    assert metrics["download.not_modified"] == metrics["records"] == metrics["records.unchanged"]


def test_two_scrapes_write_the_same_shards(project: Path, tmp_path: Path) -> None:
    assert scrape(tmp_path, "pydoc:requests, pydoc:urllib3").returncode == 0
    assert digests(tmp_path / "data/docs/scraped") == digests(project / "data/docs/scraped")
    fetches = pd.read_parquet(tmp_path / "data/docs/fetches/fetches.parquet")
    assert (fetches.fetched_at.str.len() == len("2026-01-01T00:00:00+00:00"))[fetches.state == "record"].all()


def test_a_damaged_previous_scrape_is_replaced(tmp_path: Path) -> None:
    shard = tmp_path / "data/docs/scraped/00000.parquet"
    shard.parent.mkdir(parents=True)
    shard.write_bytes(b"cut in half")
    result = scrape(tmp_path, "pydoc:requests")
    assert (result.returncode, "comparison with the previous scrape is skipped" in result.stdout) == (0, True)
    assert records.count_records(shard.parent) > 0


def test_an_unavailable_site_keeps_the_previous_scrape(project: Path) -> None:
    before = digests(project / "data/docs/scraped")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        result = scrape(project, f"http://127.0.0.1:{closed.getsockname()[1]}/")
    assert result.returncode == 1
    assert result.stderr.startswith("scrape@docs: params.yaml: corpora.docs.scrape: start_urls: http://127.0.0.1:")
    assert "Traceback" not in result.stderr
    assert digests(project / "data/docs/scraped") == before
    assert sorted(path.name for path in (project / "data/docs").iterdir()) == ["fetches", "scraped"]


def test_an_unknown_key_stops_the_stage_at_once(tmp_path: Path) -> None:
    result = scrape(tmp_path, "pydoc:requests]\n          start_ulrs: [x")
    assert result.returncode == 1
    assert "unknown key 'start_ulrs' (did you mean 'start_urls'?)" in result.stderr


def test_the_same_stage_scrapes_a_domain_without_downloads(tmp_path: Path) -> None:
    strings = "corpora: {s: {domain: strings, scrape: {strings: [ABC, DEF]}, filter: {}, dedupe: {}, tokenize: {}}}\nrecipes: {}\nreports: {}\n"
    (tmp_path / "params.yaml").write_text(strings, encoding="utf-8")
    assert run_stage(tmp_path, "scrape", "s").returncode == 0
    assert [item.text for item in records.read_records(tmp_path / "data/s/scraped")] == ["ABC", "DEF"]


def test_a_name_that_leaves_the_project_stops_the_stage(tmp_path: Path) -> None:
    project = tmp_path / "deep" / "project"
    project.mkdir(parents=True)
    (project / "params.yaml").write_text(
        PARAMS.replace("docs:", '"../../escape":').replace("START", "pydoc:requests"), encoding="utf-8"
    )
    result = run_stage(project, "scrape", "../../escape")
    assert (result.returncode, "a name must be letters, digits" in result.stderr) == (1, True)
    assert [path.name for path in tmp_path.rglob("*")] == ["deep", "project", "params.yaml"]


def test_two_scrapes_of_a_corpus_at_once_are_refused(tmp_path: Path) -> None:
    with hold_lock(tmp_path / "data/.state/docs/scrape.lock"):
        result = scrape(tmp_path, "pydoc:requests")
    assert (result.returncode, f"in use by process {os.getpid()}; wait until it ends, or end it\n" in result.stderr) == (1, True)
    assert not (tmp_path / "data/docs").exists()


ROWS_PARAMS = """
corpora:
  rows: {domain: text, scrape: {sources: [{kind: jsonl, files: [rows.jsonl], source: url}]}, filter: {}, dedupe: {}, tokenize: {}}
recipes: {}
reports: {}
"""


def scrape_rows(folder: Path, rows: str) -> subprocess.CompletedProcess[str]:
    (folder / "params.yaml").write_text(ROWS_PARAMS, encoding="utf-8")
    (folder / "rows.jsonl").write_text(rows, encoding="utf-8")
    return run_stage(folder, "scrape", "rows")


def test_the_stage_says_what_became_of_every_row(tmp_path: Path) -> None:
    result = scrape_rows(
        tmp_path, '{"text": "a", "url": "u"}\n{"text": "b\\ud800", "url": "v\\ud800"}\n{"text": "a", "url": "u"}\nx\nx\n{}\n'
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "scrape@rows: scraped 2 records; 2 failed: json 2; 2 skipped: no-content 1, repeated 1\n" in result.stdout
    assert [item.source for item in records.read_records(tmp_path / "data/rows/scraped")] == ["u", "v\\ud800"]


def test_the_reasons_of_a_failed_scrape_are_kept(tmp_path: Path) -> None:
    assert scrape_rows(tmp_path, '{"text": "a", "url": "u"}\n').returncode == 0
    before = digests(tmp_path / "data/rows/scraped")
    result = scrape_rows(tmp_path, '{"txt": "b", "url": "u"}\nno json\n')
    assert result.returncode == 1
    assert "scrape@rows: scraped 0 records; 1 failed: json 1; 1 skipped: no-content 1\n" in result.stdout
    message = "sources[0]: content: none of 1 rows has column 'text'; must be one of: txt, url"
    assert result.stderr == f"scrape@rows: params.yaml: corpora.rows.scrape: {message}\n"
    fetches = pd.read_parquet(tmp_path / "data/rows/fetches/fetches.parquet")
    assert fetches[["url", "reason"]].values.tolist() == [["rows.jsonl:1", "no-content"], ["rows.jsonl:2", "json"]]
    assert digests(tmp_path / "data/rows/scraped") == before


def test_a_domain_without_text_names_the_most_frequent_reason(tmp_path: Path) -> None:
    params = "corpora: {g: {domain: grids, scrape: {sources: [{kind: jsonl, files: [t.jsonl], content: null}]}, filter: {}, dedupe: {}, tokenize: {}}}\nrecipes: {}\nreports: {}\n"
    (tmp_path / "params.yaml").write_text(params, encoding="utf-8")
    (tmp_path / "t.jsonl").write_text("no json\nnone\n{}\n", encoding="utf-8")
    result = run_stage(tmp_path, "scrape", "g")
    reason = "must yield at least one record, got none: 2 of 3 failed json, first t.jsonl:1; a row must be a JSON object"
    assert result.stderr == f"scrape@g: params.yaml: corpora.g.scrape: {reason}\n"
