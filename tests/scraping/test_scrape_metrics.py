from provenlm.core import audit
from provenlm.core.records import FetchResult, Record
from provenlm.scraping import metrics


def record_scrape(bodies: dict[str, str], previous: dict[str, str], *extra: FetchResult) -> audit.MetricRecorder:
    ids = {source: Record.from_content(body.encode(), "text/plain", source).id for source, body in previous.items()}
    tally = metrics.CrawlTally(ids)
    for source, body in bodies.items():
        record = Record.from_content(body.encode(), "text/plain", source, site="s")
        tally.add(FetchResult(source, "record", "", 200, 10, 2, 0.5, record, "2026-01-01T00:00:00+00:00"))
    for fetch in extra:
        tally.add(fetch)
    recorder = audit.MetricRecorder()
    metrics.record_scrape_metrics(recorder, tally)
    return recorder


def changes_of(recorder: audit.MetricRecorder) -> dict[str, object]:
    return {name.removeprefix("records."): metric.value for name, metric in recorder.metrics.items() if "records." in name}


def test_changes_since_the_last_scrape_are_counted() -> None:
    before = {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert changes_of(record_scrape({"a": "1", "b": "9", "e": "5", "f": "3"}, before)) == {
        "added": 2,
        "changed": 1,
        "unchanged": 1,
        "removed": 2,
    }


def test_every_record_of_a_first_scrape_is_added() -> None:
    assert changes_of(record_scrape({"a": "1"}, {})) == {"added": 1, "changed": 0, "unchanged": 0, "removed": 0}


def test_states_add_up_and_each_reason_has_an_example() -> None:
    skipped = [FetchResult(f"http://h/{n}", "skipped", "robots", None, 0, 0, 0.0, None) for n in range(3)]
    recorder = record_scrape(
        {"a": "12", "b": "345"}, {}, *skipped, FetchResult("http://h/x", "failed", "http-404", 404, 7, 1, 0.1, None)
    )
    values = {name: item.value for name, item in recorder.metrics.items()}
    assert (values["urls.seen"], values["records"], values["urls.skipped"], values["urls.failed"], values["unaccounted"]) == (
        6,
        2,
        3,
        1,
        0,
    )
    assert (values["bytes"], values["requests"], values["retries"], values["download.bytes"]) == (5, 5, 2, 27)
    tables = {table.name: table.rows for table in recorder.tables}
    assert tables["reasons"] == [["failed", "http-404", 1, "http://h/x"], ["skipped", "robots", 3, "http://h/0"]]
    assert tables["sources"] == [["s", 2, 5]]


def test_a_lost_record_is_unaccounted() -> None:
    lost = FetchResult("http://h/lost", "record", "", 200, 1, 1, 0.1, None)
    recorder = record_scrape({"a": "1"}, {}, lost)
    assert recorder.metrics["unaccounted"].value == 1
    assert recorder.checks["unaccounted"].expect == "== 0"
