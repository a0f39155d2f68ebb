from provenlm.core import audit
from provenlm.core.records import Fetch, Record
from provenlm.scraping import metrics


def said(bodies: dict[str, str], before: dict[str, str], *others: Fetch) -> audit.Recorder:
    ids = {source: Record.of(body.encode(), "text/plain", source).id for source, body in before.items()}
    seen = metrics.Seen(ids)
    for source, body in bodies.items():
        record = Record.of(body.encode(), "text/plain", source, site="s")
        seen.add(Fetch(source, "record", "", 200, 10, 2, 0.5, record, "2026-01-01T00:00:00+00:00"))
    for fetch in others:
        seen.add(fetch)
    recorder = audit.Recorder()
    metrics.record(recorder, seen)
    return recorder


def compared(recorder: audit.Recorder) -> dict[str, object]:
    return {name.removeprefix("records."): figure.value for name, figure in recorder.figures.items() if "records." in name}


def test_what_came_went_and_changed_since_the_last_scrape_is_counted() -> None:
    before = {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert compared(said({"a": "1", "b": "9", "e": "5", "f": "3"}, before)) == {"added": 2, "changed": 1, "same": 1, "gone": 2}


def test_everything_in_a_first_scrape_is_new() -> None:
    assert compared(said({"a": "1"}, {})) == {"added": 1, "changed": 0, "same": 0, "gone": 0}


def test_states_add_up_and_each_reason_has_an_example() -> None:
    others = [Fetch(f"http://h/{n}", "refused", "robots", None, 0, 0, 0.0, None) for n in range(3)]
    recorder = said({"a": "12", "b": "345"}, {}, *others, Fetch("http://h/x", "failed", "http-404", 404, 7, 1, 0.1, None))
    figure = {name: item.value for name, item in recorder.figures.items()}
    assert (figure["addresses"], figure["records"], figure["refused"], figure["failed"], figure["balance"]) == (6, 2, 3, 1, 0)
    assert (figure["bytes"], figure["requests"], figure["retries"], figure["bytes_received"]) == (5, 5, 2, 27)
    tables = {table.name: table.rows for table in recorder.tables}
    assert tables["reasons"] == [["failed", "http-404", 1, "http://h/x"], ["refused", "robots", 3, "http://h/0"]]
    assert tables["sources"] == [["s", 2, 5]]


def test_a_record_that_was_lost_on_the_way_upsets_the_balance() -> None:
    lost = Fetch("http://h/lost", "record", "", 200, 1, 1, 0.1, None)
    assert said({"a": "1"}, {}, lost).figures["balance"].value == 1
