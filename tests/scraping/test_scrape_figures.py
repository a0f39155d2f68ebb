from provenlm.core import audit
from provenlm.core.record import Fetch
from provenlm.scraping import figures


def said(ids: dict[str, str], before: dict[str, str]) -> dict[str, object]:
    seen = figures.Seen(ids=ids, sizes=[("site", 10) for _ in ids])
    seen.fetches = [Fetch(url, "record", "", 200, 10, 1, 0.1, None, "2026-01-01T00:00:00+00:00") for url in ids]
    recorder = audit.Recorder()
    figures.record(recorder, seen, before)
    return {name.removeprefix("records."): figure.value for name, figure in recorder.figures.items() if "records." in name}


def test_what_came_went_and_changed_since_the_last_scrape_is_counted() -> None:
    before = {"a": "1", "b": "2", "c": "3", "d": "4"}
    assert said({"a": "1", "b": "9", "e": "5", "f": "3"}, before) == {"added": 2, "changed": 1, "same": 1, "gone": 2}


def test_everything_in_a_first_scrape_is_new() -> None:
    assert said({"a": "1"}, {}) == {"added": 1, "changed": 0, "same": 0, "gone": 0}
