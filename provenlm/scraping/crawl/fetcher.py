"""Fetch one URL at a time: with delays, retries, a deadline and a size limit."""

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
from provenlm.scraping.crawl.robots_directives import PRODUCT_TOKEN
from provenlm.scraping.crawl.urls import url_host
from provenlm.scraping.extraction.media_types import SNIFFED_BYTES, UNTYPED, sniff_media_type

REDIRECT_STATUSES = (301, 302, 303, 307, 308)
RETRY_STATUSES = (429, 500, 502, 503, 504)
BODY_STATUSES = (200, 304)
CHUNK_BYTES = 1 << 16
LINE_HEADERS = ("X-Robots-Tag", "Set-Cookie")  # not lists: each header of the name is one line of the value
TOTAL_TIMEOUT_FACTOR = 4  # deadline of a whole page, as a multiple of `timeout_seconds`


@dataclass(frozen=True)
class CrawlPolicy:
    """Configure the politeness and the request limits of a crawl."""

    user_agent_contact: str = ""  # URL or e-mail address for the operators of the sites; the embedded pydoc site needs none
    download_delay_seconds: float = 1.0  # between two requests to a host; a longer Crawl-delay of robots.txt wins
    timeout_seconds: float = 15.0  # without data; a whole page may take four times as long
    max_attempts: int = 3  # requests per page
    max_retry_after_seconds: float = 120.0  # a page with a longer Retry-After fails; also caps Crawl-delay
    max_response_bytes: int = 4_000_000  # decompressed; also limits a file or a row
    allowed_private_hosts: tuple[str, ...] = ()  # names of hosts that may resolve to private addresses

    def __post_init__(self) -> None:
        for name in ("download_delay_seconds", "max_retry_after_seconds"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.timeout_seconds <= 0:
            raise ValueError(f"timeout_seconds must be > 0, got {self.timeout_seconds}")
        for name in ("max_attempts", "max_response_bytes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.user_agent_contact.isprintable() or not self.user_agent_contact.isascii():
            raise ValueError(f"user_agent_contact must be printable ASCII, got {self.user_agent_contact!r}")

    @property
    def user_agent(self) -> str:
        """Return the User-Agent header."""
        return f"{PRODUCT_TOKEN} (+{self.user_agent_contact})" if self.user_agent_contact else PRODUCT_TOKEN


@dataclass(frozen=True, slots=True)
class Response:
    """Hold the response to one URL, or the reason why there is none.

    `reason` is "" if `content` is complete.
    """

    status: int | None
    reason: str
    headers: Mapping[str, str]
    content: bytes
    received_bytes: int  # decoded bytes
    attempts: int
    seconds: float
    detail: str = ""  # explanation for an error message


@dataclass
class Fetcher:
    """Fetch one URL at a time, with a delay between requests to the same host."""

    policy: CrawlPolicy
    network_policy: network.NetworkPolicy
    sleep: Callable[[float], object] = time.sleep
    next_request_at: dict[str, float] = field(default_factory=dict)  # host: monotonic time

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
        """GET `url` without following redirects, with retries of transient failures.

        `media_types` are the accepted content types (none: all), `max_bytes` limits the decoded content; `truncate` keeps
        the content up to that limit. Retry-After is honoured up to `max_retry_after_seconds`; beyond it the URL is not
        retried.
        """
        started, received_bytes = time.monotonic(), 0
        for attempt in range(1, self.policy.max_attempts + 1):
            self._pace(url, delay_seconds)
            response = self._request(url, headers, media_types, max_bytes, truncate)
            received_bytes += response.received_bytes
            wait_seconds = _retry_delay(response, attempt)
            if wait_seconds is None or wait_seconds > self.policy.max_retry_after_seconds or attempt == self.policy.max_attempts:
                break
            self.next_request_at[url_host(url)] = time.monotonic() + wait_seconds
        seconds = time.monotonic() - started
        return Response(
            response.status, response.reason, response.headers, response.content, received_bytes, attempt, seconds, response.detail
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
                    return _failed_response("too-slow", "the response takes too long") if expired.is_set() else result
            except network.PrivateAddressError as error:
                return _failed_response("private-address", str(error))
            except (requests.RequestException, OSError) as error:
                return _failed_response("too-slow" if expired.is_set() else _failure_reason(error), str(error))

    def _read_response(self, response: requests.Response, media_types: Collection[str], max_bytes: int, truncate: bool) -> Response:
        status, headers = response.status_code, _join_header_lines(response)
        media_type = parse_media_type(headers)
        if status not in BODY_STATUSES:
            return Response(status, f"http-{status}", headers, b"", 0, 1, 0.0, f"HTTP status {status}")
        is_untyped = status == 200 and bool(media_types) and media_type in UNTYPED
        if status == 200 and media_types and media_type not in media_types and not is_untyped:
            return Response(status, "content-type", headers, b"", 0, 1, 0.0, f"the content type is {media_type}")
        encodings = {word.strip().lower() for word in headers.get("Content-Encoding", "").split(",")}
        if encodings - {
            "",
            "identity",
            *HTTPResponse.CONTENT_DECODERS,
        }:  # content in an unsupported encoding would be taken for text
            return Response(status, "decoding", headers, b"", 0, 1, 0.0, f"the content encoding is {', '.join(sorted(encodings))}")
        body = bytearray()
        for chunk in response.iter_content(CHUNK_BYTES):  # decoded, so that a decompression bomb stops here too
            body += chunk
            if is_untyped and len(body) >= SNIFFED_BYTES:
                headers["Content-Type"], is_untyped = sniff_media_type(bytes(body), response.url), False
                if headers["Content-Type"] not in media_types:
                    break
            if len(body) > max_bytes:
                if truncate:
                    return Response(status, "", headers, bytes(body[:max_bytes]), len(body), 1, 0.0)
                return Response(
                    status, "too-large", headers, b"", len(body), 1, 0.0, f"the content is larger than {max_bytes} bytes"
                )
        if is_untyped:
            headers["Content-Type"] = sniff_media_type(bytes(body), response.url)
        if status == 200 and media_types and parse_media_type(headers) not in media_types:
            detail = f"the content type is {media_type or 'not given'}, and the content looks like {headers['Content-Type']}"
            return Response(status, "content-type", headers, b"", len(body), 1, 0.0, detail)
        return Response(status, "", headers, bytes(body), len(body), 1, 0.0)


def _join_header_lines(response: requests.Response) -> CaseInsensitiveDict[str]:
    """Return the headers; requests has joined those of one name with commas, which is wrong for some."""
    headers = CaseInsensitiveDict(response.headers)
    headers.update({name: "\n".join(response.raw.headers.getlist(name)) for name in LINE_HEADERS if name in headers})
    return headers


def parse_media_type(headers: Mapping[str, str]) -> str:
    """Return the media type of a Content-Type header, without parameters."""
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _failed_response(reason: str, detail: str) -> Response:
    return Response(None, reason, CaseInsensitiveDict(), b"", 0, 1, 0.0, detail)


def _failure_reason(error: Exception) -> str:
    """Return the reason of a failure below HTTP.

    One of dns, tls, decoding, timeout and connection.
    """
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
    """Return the seconds before the next attempt, or None if it would not help.

    The value of Retry-After; without one 1, 2, 4 …
    """
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
