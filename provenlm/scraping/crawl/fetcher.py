"""An address in, one answer out: paced, tried again, and cut off where it takes too long or grows too large."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime

import requests
from requests.structures import CaseInsensitiveDict
from urllib3.exceptions import NameResolutionError
from urllib3.response import HTTPResponse

from provenlm.scraping.crawl import network
from provenlm.scraping.crawl.urls import url_host

PRODUCT_TOKEN = "provenlm"  # our product token (RFC 9309, section 2.2.1)
REDIRECT_STATUSES = (301, 302, 303, 307, 308)
RETRY_STATUSES = (429, 500, 502, 503, 504)
BODY_STATUSES = (200, 304)
CHUNK_BYTES = 1 << 16
TOTAL_TIMEOUT_FACTOR = 4  # a whole page may take this many times as long as a host may be silent


@dataclass(frozen=True)
class CrawlPolicy:
    """How a crawler behaves towards other people's servers, and what it does not put up with."""

    user_agent_contact: str
    download_delay_seconds: float
    timeout_seconds: float
    max_attempts: int
    max_retry_after_seconds: float
    max_response_bytes: int
    allowed_private_hosts: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.download_delay_seconds < 0 or self.max_retry_after_seconds < 0:
            raise ValueError("delay_seconds and max_wait_seconds must not be negative")
        if self.timeout_seconds <= 0 or self.max_attempts < 1 or self.max_response_bytes < 1:
            raise ValueError("timeout_seconds must be above 0, tries and max_page_bytes at least 1")
        if not self.user_agent_contact.isprintable() or not self.user_agent_contact.isascii():
            raise ValueError(f"contact: {self.user_agent_contact!r} cannot stand in a header; plain ASCII can")

    @property
    def user_agent(self) -> str:
        return f"{PRODUCT_TOKEN} (+{self.user_agent_contact})" if self.user_agent_contact else PRODUCT_TOKEN


@dataclass(frozen=True, slots=True)
class Response:
    """What came of asking. `reason` is "" if `body` is whole; else why there is none."""

    status: int | None
    reason: str
    headers: Mapping[str, str]
    content: bytes
    bytes_received: int  # decoded bytes
    attempts: int
    seconds: float
    detail: str = ""  # for a person


@dataclass
class Fetcher:
    """Asks one thing at a time; remembers for each host when it may be asked again."""

    policy: CrawlPolicy
    network_policy: network.NetworkPolicy
    sleep: Callable[[float], object] = time.sleep
    next_request_at: dict[str, float] = field(default_factory=dict)  # host: not before this time of the monotonic clock

    def __post_init__(self) -> None:
        self.session = network.make_session(self.network_policy)
        self.session.headers.update({"User-Agent": self.policy.user_agent, "Accept-Encoding": "gzip, deflate"})

    def get(
        self,
        url: str,
        headers: Mapping[str, str],
        media_types: Collection[str],
        max_bytes: int,
        delay_seconds: float,
        truncate: bool = False,
    ) -> Response:
        """GET `url`, redirects not followed, and again while the host says "later" and `tries` are left.

        `accepts` are the media types to read (none: all), `limit` the decoded bytes; `cut` keeps what came up to the limit.
        Retry-After is honoured up to `max_wait_seconds`; a host that wants longer is left alone.
        """
        started, bytes_received = time.monotonic(), 0
        for attempt in range(1, self.policy.max_attempts + 1):
            self._pace(url, delay_seconds)
            response = self._request(url, headers, media_types, max_bytes, truncate)
            bytes_received += response.bytes_received
            wait_seconds = _retry_delay(response, attempt)
            if wait_seconds is None or wait_seconds > self.policy.max_retry_after_seconds or attempt == self.policy.max_attempts:
                break
            self.next_request_at[url_host(url)] = time.monotonic() + wait_seconds
        seconds = time.monotonic() - started
        return Response(
            response.status, response.reason, response.headers, response.content, bytes_received, attempt, seconds, response.detail
        )

    def _pace(self, url: str, delay_seconds: float) -> None:
        pause = self.next_request_at.get(url_host(url), 0.0) - time.monotonic()
        if pause > 0:
            self.sleep(pause)
        self.next_request_at[url_host(url)] = time.monotonic() + delay_seconds

    def _request(
        self, url: str, headers: Mapping[str, str], media_types: Collection[str], max_bytes: int, truncate: bool
    ) -> Response:
        with network.deadline(self.network_policy, TOTAL_TIMEOUT_FACTOR * self.policy.timeout_seconds) as expired:
            try:
                with self.session.get(
                    url, headers=dict(headers), stream=True, allow_redirects=False, timeout=self.policy.timeout_seconds
                ) as response:
                    result = self._read_response(response, media_types, max_bytes, truncate)
                    return _failed_response("too-slow", "it takes too long") if expired.is_set() else result
            except network.PrivateAddressError as error:
                return _failed_response("private-address", str(error))
            except (requests.RequestException, OSError) as error:
                return _failed_response("too-slow" if expired.is_set() else _failure_reason(error), str(error))

    def _read_response(self, response: requests.Response, media_types: Collection[str], max_bytes: int, truncate: bool) -> Response:
        status, headers = response.status_code, response.headers
        media_type = parse_media_type(headers)
        if status not in BODY_STATUSES:
            return Response(status, f"http-{status}", headers, b"", 0, 1, 0.0, f"HTTP status {status}")
        if status == 200 and media_types and media_type not in media_types:
            return Response(status, "content-type", headers, b"", 0, 1, 0.0, f"its content type is {media_type or 'not given'}")
        encodings = {word.strip().lower() for word in headers.get("Content-Encoding", "").split(",")}
        if encodings - {"", "identity", *HTTPResponse.CONTENT_DECODERS}:  # what nobody asked for would be taken for text
            return Response(status, "decoding", headers, b"", 0, 1, 0.0, f"its content encoding is {', '.join(sorted(encodings))}")
        body = bytearray()
        for chunk in response.iter_content(CHUNK_BYTES):  # decoded: a small file that unpacks without end stops here too
            body += chunk
            if len(body) > max_bytes:
                if truncate:
                    return Response(status, "", headers, bytes(body[:max_bytes]), len(body), 1, 0.0)
                return Response(status, "too-large", headers, b"", len(body), 1, 0.0, f"it is larger than {max_bytes} bytes")
        return Response(status, "", headers, bytes(body), len(body), 1, 0.0)


def parse_media_type(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _failed_response(reason: str, detail: str) -> Response:
    return Response(None, reason, CaseInsensitiveDict(), b"", 0, 1, 0.0, detail)


def _failure_reason(error: Exception) -> str:
    """One word for what went wrong below HTTP."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        current = current.__cause__ or current.__context__
    if any(isinstance(item, NameResolutionError) for item in chain):
        return "dns"
    if isinstance(error, requests.exceptions.SSLError):
        return "tls"
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return "decoding"
    if isinstance(error, requests.exceptions.Timeout) or any(isinstance(item, TimeoutError) for item in chain):
        return "timeout"
    return "connection"


def _retry_delay(response: Response, attempt: int) -> float | None:
    """Seconds before another try; None if another would not help. Without Retry-After: 1, 2, 4 …"""
    if response.status is None:
        return 2.0 ** (attempt - 1) if response.reason in ("connection", "timeout", "dns") else None
    if response.status not in RETRY_STATUSES:
        return None
    retry_after = response.headers.get("Retry-After", "").strip()
    if retry_after.isascii() and retry_after.isdigit():
        return float(retry_after)
    try:
        date = parsedate_to_datetime(retry_after)
    except ValueError:
        return 2.0 ** (attempt - 1)
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())
