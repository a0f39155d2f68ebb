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
from provenlm.scraping.crawl.urls import host

PRODUCT = "provenlm"  # our product token (RFC 9309, section 2.2.1)
REDIRECTS = (301, 302, 303, 307, 308)
AGAIN = (429, 500, 502, 503, 504)
BODIES = (200, 304)
CHUNK = 1 << 16
PATIENCE = 4  # a whole page may take this many times as long as a host may be silent


@dataclass(frozen=True)
class Manners:
    """How a crawler behaves towards other people's servers, and what it does not put up with."""

    contact: str
    delay_seconds: float
    timeout_seconds: float
    tries: int
    max_wait_seconds: float
    max_page_bytes: int
    allow_private: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.delay_seconds < 0 or self.max_wait_seconds < 0:
            raise ValueError("delay_seconds and max_wait_seconds must not be negative")
        if self.timeout_seconds <= 0 or self.tries < 1 or self.max_page_bytes < 1:
            raise ValueError("timeout_seconds must be above 0, tries and max_page_bytes at least 1")
        if not self.contact.isprintable() or not self.contact.isascii():
            raise ValueError(f"contact: {self.contact!r} cannot stand in a header; plain ASCII can")

    @property
    def agent(self) -> str:
        return f"{PRODUCT} (+{self.contact})" if self.contact else PRODUCT


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of asking. `reason` is "" if `body` is whole; else why there is none."""

    status: int | None
    reason: str
    headers: Mapping[str, str]
    body: bytes
    received: int  # decoded bytes
    tries: int
    seconds: float
    detail: str = ""  # for a person


@dataclass
class Fetcher:
    """Asks one thing at a time; remembers for each host when it may be asked again."""

    manners: Manners
    reach: network.Reach
    sleep: Callable[[float], object] = time.sleep
    ready: dict[str, float] = field(default_factory=dict)  # host: not before this time of the monotonic clock

    def __post_init__(self) -> None:
        self.session = network.session(self.reach)
        self.session.headers.update({"User-Agent": self.manners.agent, "Accept-Encoding": "gzip, deflate"})

    def get(
        self, url: str, headers: Mapping[str, str], accepts: Collection[str], limit: int, delay: float, cut: bool = False
    ) -> Answer:
        """GET `url`, redirects not followed, and again while the host says "later" and `tries` are left.

        `accepts` are the media types to read (none: all), `limit` the decoded bytes; `cut` keeps what came up to the limit.
        Retry-After is honoured up to `max_wait_seconds`; a host that wants longer is left alone.
        """
        began, received = time.monotonic(), 0
        for attempt in range(1, self.manners.tries + 1):
            self._pace(url, delay)
            answer = self._once(url, headers, accepts, limit, cut)
            received += answer.received
            wait = _wait(answer, attempt)
            if wait is None or wait > self.manners.max_wait_seconds or attempt == self.manners.tries:
                break
            self.ready[host(url)] = time.monotonic() + wait
        seconds = time.monotonic() - began
        return Answer(answer.status, answer.reason, answer.headers, answer.body, received, attempt, seconds, answer.detail)

    def _pace(self, url: str, delay: float) -> None:
        pause = self.ready.get(host(url), 0.0) - time.monotonic()
        if pause > 0:
            self.sleep(pause)
        self.ready[host(url)] = time.monotonic() + delay

    def _once(self, url: str, headers: Mapping[str, str], accepts: Collection[str], limit: int, cut: bool) -> Answer:
        with network.limited(self.reach, PATIENCE * self.manners.timeout_seconds) as late:
            try:
                with self.session.get(
                    url, headers=dict(headers), stream=True, allow_redirects=False, timeout=self.manners.timeout_seconds
                ) as response:
                    answer = self._read(response, accepts, limit, cut)
                    return _no_answer("too-slow", "it takes too long") if late.is_set() else answer
            except network.PrivateAddressError as error:
                return _no_answer("private-address", str(error))
            except (requests.RequestException, OSError) as error:
                return _no_answer("too-slow" if late.is_set() else _name(error), str(error))

    def _read(self, response: requests.Response, accepts: Collection[str], limit: int, cut: bool) -> Answer:
        status, headers = response.status_code, response.headers
        media_type = media_type_of(headers)
        if status not in BODIES:
            return Answer(status, f"http-{status}", headers, b"", 0, 1, 0.0, f"HTTP status {status}")
        if status == 200 and accepts and media_type not in accepts:
            return Answer(status, "content-type", headers, b"", 0, 1, 0.0, f"its content type is {media_type or 'not given'}")
        encodings = {word.strip().lower() for word in headers.get("Content-Encoding", "").split(",")}
        if encodings - {"", "identity", *HTTPResponse.CONTENT_DECODERS}:  # what nobody asked for would be taken for text
            return Answer(status, "decoding", headers, b"", 0, 1, 0.0, f"its content encoding is {', '.join(sorted(encodings))}")
        body = bytearray()
        for chunk in response.iter_content(CHUNK):  # decoded: a small file that unpacks without end stops here too
            body += chunk
            if len(body) > limit:
                if cut:
                    return Answer(status, "", headers, bytes(body[:limit]), len(body), 1, 0.0)
                return Answer(status, "too-large", headers, b"", len(body), 1, 0.0, f"it is larger than {limit} bytes")
        return Answer(status, "", headers, bytes(body), len(body), 1, 0.0)


def media_type_of(headers: Mapping[str, str]) -> str:
    return headers.get("Content-Type", "").partition(";")[0].strip().lower()


def _no_answer(reason: str, detail: str) -> Answer:
    return Answer(None, reason, CaseInsensitiveDict(), b"", 0, 1, 0.0, detail)


def _name(error: Exception) -> str:
    """One word for what went wrong below HTTP."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    if any(isinstance(item, NameResolutionError) for item in chain):
        return "dns"
    if isinstance(error, requests.exceptions.SSLError):
        return "tls"
    if isinstance(error, requests.exceptions.ContentDecodingError):
        return "decoding"
    if isinstance(error, requests.exceptions.Timeout) or any(isinstance(item, TimeoutError) for item in chain):
        return "timeout"
    return "connection"


def _wait(answer: Answer, attempt: int) -> float | None:
    """Seconds before another try; None if another would not help. Without Retry-After: 1, 2, 4 …"""
    if answer.status is None:
        return 2.0 ** (attempt - 1) if answer.reason in ("connection", "timeout", "dns") else None
    if answer.status not in AGAIN:
        return None
    said = answer.headers.get("Retry-After", "").strip()
    if said.isascii() and said.isdigit():
        return float(said)
    try:
        date = parsedate_to_datetime(said)
    except ValueError:
        return 2.0 ** (attempt - 1)
    return max(0.0, date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time())
