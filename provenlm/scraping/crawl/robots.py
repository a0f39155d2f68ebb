"""An address in, out comes whether its host's robots.txt lets us ask for it, how slowly, and where its sitemaps are (RFC 9309)."""

import time
from dataclasses import dataclass, field

from protego import Protego
from requests.structures import CaseInsensitiveDict

from provenlm.scraping.crawl.fetcher import PRODUCT, REDIRECTS, Answer, Fetcher
from provenlm.scraping.crawl.urls import canonical, origin

LIMIT = 512 << 10  # bytes read; the RFC asks for at least 500 KiB
HOPS = 5  # redirects followed
VALID_SECONDS = 24 * 3600.0


@dataclass(frozen=True)
class Rules:
    """What one host says. `silence`: the answer of a host that did not say it, so that nothing may be asked; else None."""

    parsed: Protego
    silence: Answer | None
    asked: float  # monotonic clock

    def reason_against(self, url: str) -> str:
        """Why `url` may not be asked for; "" if it may."""
        if self.silence is not None:
            return "private-address" if self.silence.reason == "private-address" else "robots-unreachable"
        return "" if self.parsed.can_fetch(url, PRODUCT) else "robots"

    def detail(self) -> str:
        return f"robots.txt: {self.silence.detail or self.silence.reason}" if self.silence else "its robots.txt forbids it"

    def delay(self, longest: float) -> float:
        return min(float(self.parsed.crawl_delay(PRODUCT) or 0.0), longest)

    @property
    def sitemaps(self) -> list[str]:
        return list(self.parsed.sitemaps)


@dataclass
class Robots:
    """The rules of every host asked so far; asked again after a day."""

    fetcher: Fetcher
    known: dict[str, Rules] = field(default_factory=dict)

    def of(self, url: str) -> Rules:
        key = origin(url)
        if key not in self.known or time.monotonic() - self.known[key].asked > VALID_SECONDS:
            self.known[key] = rules_from(self._answer(f"{key}/robots.txt"))
        return self.known[key]

    def _answer(self, url: str) -> Answer:
        for _ in range(HOPS + 1):
            answer = self.fetcher.get(url, {}, (), LIMIT, 0.0, cut=True)
            target = canonical(answer.headers.get("Location", ""), url) if answer.status in REDIRECTS else None
            if target is None:
                return answer
            url = target
        return Answer(404, "redirects", CaseInsensitiveDict(), b"", 0, 0, 0.0)  # section 2.3.1.2: then it counts as unavailable


def rules_from(answer: Answer) -> Rules:
    """Section 2.3.1: 4xx allows everything; 5xx, 429 and silence forbid everything."""
    silent = answer.status is None or answer.status == 429 or answer.status >= 500 or (answer.status == 200 and answer.reason != "")
    said = answer.body.decode("utf-8", "replace").lstrip("\ufeff") if answer.status == 200 and not silent else ""
    return Rules(Protego.parse(said), answer if silent else None, time.monotonic())
