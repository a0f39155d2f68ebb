import gzip
import time
from email.utils import formatdate

import pytest
from loopback_site import cut_off

from provenlm.scraping.crawl.fetcher import CrawlPolicy, Fetcher, Response
from provenlm.scraping.crawl.network import NetworkPolicy


def _policy(**changed: object) -> CrawlPolicy:
    values = {
        "user_agent_contact": "", "download_delay_seconds": 0.0, "timeout_seconds": 5.0, "max_attempts": 3, "max_retry_after_seconds": 60.0, "max_response_bytes": 1000,
        "allowed_private_hosts": ("127.0.0.1",),
    }  # fmt: skip
    return CrawlPolicy(**(values | changed))


class RecordingFetcher(Fetcher):
    """A fetcher that records its delays instead of sleeping."""

    def __init__(self, policy: CrawlPolicy) -> None:
        self.pauses: list[float] = []
        super().__init__(policy, NetworkPolicy(policy.allowed_private_hosts, {}), self.pauses.append)


def _get(fetcher: Fetcher, url: str, **changed: object) -> Response:
    return fetcher.get(url, **({"headers": {}, "media_types": ("text/html",), "max_bytes": 1000, "delay_seconds": 0.0} | changed))


def test_a_complete_response_has_no_reason(web) -> None:
    web.pages["/"] = (200, {}, b"hello")
    answer = _get(RecordingFetcher(_policy()), web.url + "/")
    assert (answer.status, answer.reason, answer.content, answer.received_bytes, answer.attempts) == (200, "", b"hello", 5, 1)


def test_the_user_agent_contains_the_contact(web) -> None:
    _get(RecordingFetcher(_policy(user_agent_contact="mailto:me@example.org")), web.url + "/")
    assert web.headers["/"][0]["User-Agent"] == "provenlm (+mailto:me@example.org)"


def test_a_contact_with_control_characters_is_refused() -> None:
    with pytest.raises(ValueError, match="contact"):
        _policy(user_agent_contact="me\r\nX: y")


@pytest.mark.parametrize("status", [429, 500, 503])
def test_retryable_statuses_are_retried_with_growing_delays(web, status: int) -> None:
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


def test_a_too_long_retry_after_ends_the_attempts(web) -> None:
    web.pages["/"] = (503, {"Retry-After": "3600"}, b"")
    answer = _get(RecordingFetcher(_policy()), web.url + "/")
    assert (answer.reason, answer.attempts) == ("http-503", 1)


def test_a_404_is_not_retried(web) -> None:
    assert (lambda answer: (answer.reason, answer.attempts))(_get(RecordingFetcher(_policy()), web.url + "/")) == ("http-404", 1)


def test_requests_to_a_host_keep_the_delay(web) -> None:
    web.html("/")
    fetcher = RecordingFetcher(_policy())
    for _ in range(3):
        _get(fetcher, web.url + "/", delay_seconds=9.0)
    assert [round(pause) for pause in fetcher.pauses] == [9, 9]


def test_another_content_type_is_not_downloaded(web) -> None:
    web.pages["/"] = (200, {"Content-Type": "image/png"}, b"x")
    assert _get(RecordingFetcher(_policy()), web.url + "/").reason == "content-type"


def _endless(handler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "text/html")
    handler.end_headers()
    while True:
        handler.wfile.write(b"again " * 1000)


def test_an_endless_page_is_stopped_at_the_limit(web) -> None:
    web.pages["/"] = _endless
    answer = _get(RecordingFetcher(_policy()), web.url + "/", max_bytes=100_000)
    assert (answer.reason, answer.attempts) == ("too-large", 1)
    assert answer.received_bytes < 300_000


def test_a_decompression_bomb_is_stopped_at_the_limit(web) -> None:
    bomb = gzip.compress(bytes(50 << 20))
    web.pages["/"] = (200, {"Content-Encoding": "gzip"}, bomb)
    answer = _get(RecordingFetcher(_policy()), web.url + "/", max_bytes=100_000)
    assert len(bomb) < 100_000
    assert answer.reason == "too-large"
    assert answer.received_bytes < 20 << 20


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
def test_a_page_that_drips_byte_by_byte_exceeds_the_deadline(web, page) -> None:
    web.pages["/"] = page
    answer = _get(RecordingFetcher(_policy(timeout_seconds=0.2)), web.url + "/")
    assert (answer.reason, answer.attempts) == ("too-slow", 1)


def _silent(handler) -> None:
    time.sleep(1.5)


def test_a_silent_host_is_retried_up_to_max_attempts(web) -> None:
    web.pages["/"] = _silent
    answer = _get(RecordingFetcher(_policy(timeout_seconds=0.2, max_attempts=2)), web.url + "/")
    assert (answer.status, answer.reason, answer.attempts) == (None, "timeout", 2)


def test_a_page_shorter_than_its_content_length_fails(web) -> None:
    web.pages["/"] = cut_off
    answer = _get(RecordingFetcher(_policy(max_attempts=2)), web.url + "/")
    assert (answer.reason, answer.content, answer.attempts) == ("connection", b"", 2)


def test_a_body_that_contradicts_its_encoding_fails(web) -> None:
    web.pages["/"] = (200, {"Content-Encoding": "gzip"}, b"not gzip at all")
    assert _get(RecordingFetcher(_policy()), web.url + "/").reason == "decoding"


def test_a_closed_port_is_a_connection_failure(web) -> None:
    web.stop()
    answer = _get(RecordingFetcher(_policy(max_attempts=2)), web.url + "/")
    assert (answer.status, answer.reason, answer.attempts) == (None, "connection", 2)


def test_an_unknown_host_name_is_a_dns_failure() -> None:
    assert _get(RecordingFetcher(_policy(max_attempts=1)), "http://no.such.host.invalid/").reason == "dns"


def test_a_private_address_is_not_requested(web) -> None:
    answer = _get(RecordingFetcher(_policy(allowed_private_hosts=())), web.url + "/")
    assert (answer.reason, web.requested_paths) == ("private-address", [])
