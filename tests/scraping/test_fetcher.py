import gzip
import time
from email.utils import formatdate

import pytest

from provenlm.scraping.crawl.fetcher import CrawlPolicy, Fetcher, Response
from provenlm.scraping.crawl.network import NetworkPolicy


def _policy(**changed: object) -> CrawlPolicy:
    values = {
        "contact": "", "delay_seconds": 0.0, "timeout_seconds": 5.0, "tries": 3, "max_wait_seconds": 60.0, "max_page_bytes": 1000,
        "allow_private": ("127.0.0.1",),
    }  # fmt: skip
    return CrawlPolicy(**(values | changed))


class RecordingFetcher(Fetcher):
    """A fetcher that writes its pauses down in place of sleeping."""

    def __init__(self, manners: CrawlPolicy) -> None:
        self.pauses: list[float] = []
        super().__init__(manners, NetworkPolicy(manners.allowed_private_hosts, {}), self.pauses.append)


def _get(fetcher: Fetcher, url: str, **changed: object) -> Response:
    return fetcher.get(url, **({"headers": {}, "accepts": ("text/html",), "limit": 1000, "delay": 0.0} | changed))


def test_a_whole_answer_has_no_reason(web) -> None:
    web.pages["/"] = (200, {}, b"hello")
    answer = _get(RecordingFetcher(_policy()), web.url + "/")
    assert (answer.status, answer.reason, answer.content, answer.bytes_received, answer.attempts) == (200, "", b"hello", 5, 1)


def test_the_contact_stands_in_the_user_agent(web) -> None:
    _get(RecordingFetcher(_policy(contact="mailto:me@example.org")), web.url + "/")
    assert web.headers["/"][0]["User-Agent"] == "provenlm (+mailto:me@example.org)"


def test_a_contact_that_would_break_the_header_is_refused() -> None:
    with pytest.raises(ValueError, match="contact"):
        _policy(contact="me\r\nX: y")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_host_that_says_later_is_asked_again_with_growing_pauses(web, status: int) -> None:
    web.pages["/"] = [(status, {}, b""), (status, {}, b""), (200, {}, b"now")]
    fetcher = RecordingFetcher(_policy())
    answer = _get(fetcher, web.url + "/")
    assert (answer.content, answer.attempts) == (b"now", 3)
    assert [round(pause) for pause in fetcher.pauses] == [1, 2]


def test_retry_after_in_seconds_is_honoured(web) -> None:
    web.pages["/"] = [(503, {"Retry-After": "7"}, b""), (200, {}, b"now")]
    fetcher = RecordingFetcher(_policy())
    assert _get(fetcher, web.url + "/").content == b"now"
    assert [round(pause) for pause in fetcher.pauses] == [7]


def test_retry_after_as_a_date_is_honoured(web) -> None:
    web.pages["/"] = [(429, {"Retry-After": formatdate(time.time() + 30, usegmt=True)}, b""), (200, {}, b"now")]
    fetcher = RecordingFetcher(_policy())
    assert _get(fetcher, web.url + "/").content == b"now"
    assert 25 < fetcher.pauses[0] <= 30


def test_a_host_that_wants_too_long_a_pause_is_left_alone(web) -> None:
    web.pages["/"] = (503, {"Retry-After": "3600"}, b"")
    answer = _get(RecordingFetcher(_policy()), web.url + "/")
    assert (answer.reason, answer.attempts) == ("http-503", 1)


def test_what_is_not_there_is_not_asked_for_again(web) -> None:
    assert (lambda answer: (answer.reason, answer.attempts))(_get(RecordingFetcher(_policy()), web.url + "/")) == ("http-404", 1)


def test_two_requests_to_a_host_keep_its_delay(web) -> None:
    web.html("/")
    fetcher = RecordingFetcher(_policy())
    for _ in range(3):
        _get(fetcher, web.url + "/", delay=9.0)
    assert [round(pause) for pause in fetcher.pauses] == [9, 9]


def test_another_content_type_is_not_read(web) -> None:
    web.pages["/"] = (200, {"Content-Type": "image/png"}, b"x")
    assert _get(RecordingFetcher(_policy()), web.url + "/").reason == "content-type"


def _endless(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    while True:
        handler.wfile.write(b"again " * 1000)


def test_a_page_that_never_ends_is_cut_off_at_the_limit(web) -> None:
    web.pages["/"] = _endless
    answer = _get(RecordingFetcher(_policy()), web.url + "/", limit=100_000)
    assert (answer.reason, answer.attempts) == ("too-large", 1)
    assert answer.bytes_received < 300_000


def test_a_small_file_that_unpacks_to_a_large_one_is_cut_off(web) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    web.pages["/"] = (200, {"Content-Encoding": "gzip"}, bomb)
    answer = _get(RecordingFetcher(_policy()), web.url + "/", limit=100_000)
    assert len(bomb) < 100_000
    assert answer.reason == "too-large"
    assert answer.bytes_received < 20 << 20


def _dripping(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    while True:
        handler.wfile.write(b".")
        time.sleep(0.05)


def _dripping_header(handler) -> None:
    handler.wfile.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        handler.wfile.write(b".")
        time.sleep(0.05)


@pytest.mark.parametrize("page", [_dripping, _dripping_header])
def test_a_page_that_comes_byte_by_byte_is_given_up(web, page) -> None:
    web.pages["/"] = page
    answer = _get(RecordingFetcher(_policy(timeout_seconds=0.2)), web.url + "/")
    assert (answer.reason, answer.attempts) == ("too-slow", 1)


def _silent(handler) -> None:
    time.sleep(1.5)


def test_a_host_that_says_nothing_is_tried_again_then_given_up(web) -> None:
    web.pages["/"] = _silent
    answer = _get(RecordingFetcher(_policy(timeout_seconds=0.2, tries=2)), web.url + "/")
    assert (answer.status, answer.reason, answer.attempts) == (None, "timeout", 2)


def _short(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(b"half")
    handler.close_connection = True


def test_a_page_that_breaks_off_before_its_length_is_not_taken(web) -> None:
    web.pages["/"] = _short
    answer = _get(RecordingFetcher(_policy(tries=2)), web.url + "/")
    assert (answer.reason, answer.content, answer.attempts) == ("connection", b"", 2)


def test_a_body_that_is_not_what_its_encoding_says_is_not_taken(web) -> None:
    web.pages["/"] = (200, {"Content-Encoding": "gzip"}, b"not gzip at all")
    assert _get(RecordingFetcher(_policy()), web.url + "/").reason == "decoding"


def test_a_closed_port_is_a_connection_that_fails(web) -> None:
    web.stop()
    answer = _get(RecordingFetcher(_policy(tries=2)), web.url + "/")
    assert (answer.status, answer.reason, answer.attempts) == (None, "connection", 2)


def test_a_name_that_nobody_knows_is_a_dns_failure() -> None:
    assert _get(RecordingFetcher(_policy(tries=1)), "http://no.such.host.invalid/").reason == "dns"


def test_a_private_address_is_not_asked(web) -> None:
    answer = _get(RecordingFetcher(_policy(allow_private=())), web.url + "/")
    assert (answer.reason, web.asked) == ("private-address", [])
