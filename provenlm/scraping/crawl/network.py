"""The only door to the network: a requests session whose connections reach public addresses, and those the user named, only.

A host is resolved once, every address is vetted, and the connection is made to the vetted address itself: a second answer of the
name server cannot lead elsewhere. Proxies, cookies and the environment play no part.
"""

import ipaddress
import socket
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.cookiejar import DefaultCookiePolicy
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import NameResolutionError, NewConnectionError
from urllib3.util.connection import create_connection


class PrivateAddressError(Exception):
    """A host that resolves to an address that is not public, and that the user did not allow by name."""


@dataclass(frozen=True)
class Reach:
    """Where connections may lead. `routes` directs a host to an address and port of our own, as `curl --connect-to` does."""

    allow_private: Sequence[str]
    routes: Mapping[str, tuple[str, int]]
    open: weakref.WeakSet[socket.socket] = field(default_factory=weakref.WeakSet)
    over: threading.Event = field(default_factory=threading.Event)

    def addresses(self, host: str, port: int) -> list[tuple[str, int]]:
        """Where to connect for `host`. PrivateAddressError, or socket.gaierror if the name is not known."""
        if host in self.routes:
            return [self.routes[host]]
        found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        addresses = [str(item[4][0]) for item in found]
        private = [address for address in addresses if not public(address)]
        if private and host.strip("[]") not in self.allow_private:
            raise PrivateAddressError(
                f"{host} is at {private[0]}, which is not a public address; allow_private admits a host by name"
            )
        return [(address, port) for address in addresses]

    def shut(self) -> None:
        """Break off whatever is being sent or received now."""
        for connected in list(self.open):
            with suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Break off, and let nobody connect any more."""
        self.over.set()
        self.shut()


def public(address: str) -> bool:
    """Is this a global unicast address? An IPv4 address inside an IPv6 one is judged by itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return public(str(inner))
    return ip.is_global and not ip.is_multicast


def session(reach: Reach) -> requests.Session:
    """A session through `reach`: no proxies, no netrc, no cookies kept, no redirects or retries of its own."""
    made = _Session()
    made.trust_env = False
    made.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        made.mount(scheme, _Door(reach))
    return made


@contextmanager
def limited(reach: Reach, seconds: float) -> Iterator[threading.Event]:
    """Shut every connection of `reach` if the block takes longer; the event tells whether that happened.

    A time limit of the socket alone would not do: a server that sends a byte now and then never meets it.
    """
    late = threading.Event()

    def end() -> None:
        late.set()
        reach.shut()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield late
    finally:
        timer.cancel()


class _Session(requests.Session):
    def resolve_redirects(self, *arguments: Any, **named: Any) -> Iterator[Any]:
        """None, ever. Asked not to follow them, requests still reads a redirect's whole body and stumbles over a bad Location."""
        return iter(())


class _Door(HTTPAdapter):
    def __init__(self, reach: Reach) -> None:
        self.reach = reach
        super().__init__(max_retries=0)

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, **named)
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": _through(HTTPConnection, self.reach)}),
            "https": type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": _through(HTTPSConnection, self.reach)}),
        }


def _through(kind: Any, reach: Reach) -> Any:
    """A connection class that asks `reach` where to connect. TLS still verifies the host's own name."""

    class Connection(kind):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            reach.open.add(self.sock)  # with TLS another object than the one that connected

        def _new_conn(self) -> socket.socket:
            if reach.over.is_set():
                raise NewConnectionError(self, "the crawl is over")
            try:
                targets = reach.addresses(self.host, self.port)
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            last: OSError | None = None
            for target in targets:
                try:
                    return create_connection(target, self.timeout, self.source_address, self.socket_options)
                except OSError as error:
                    last = error
            raise NewConnectionError(self, f"cannot connect: {last}") from last

    return Connection
