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
class NetworkPolicy:
    """Where connections may lead. `routes` directs a host to an address and port of our own, as `curl --connect-to` does."""

    allowed_private_hosts: Sequence[str]
    routes: Mapping[str, tuple[str, int]]
    open_sockets: weakref.WeakSet[socket.socket] = field(default_factory=weakref.WeakSet)
    closed: threading.Event = field(default_factory=threading.Event)

    def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        """Where to connect for `host`. PrivateAddressError, or socket.gaierror if the name is not known."""
        if host in self.routes:
            return [self.routes[host]]
        infos = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        addresses = [str(item[4][0]) for item in infos]
        private = [address for address in addresses if not is_global_address(address)]
        if private and host.strip("[]") not in self.allowed_private_hosts:
            raise PrivateAddressError(
                f"{host} is at {private[0]}, which is not a public address; allow_private admits a host by name"
            )
        return [(address, port) for address in addresses]

    def abort_transfers(self) -> None:
        """Break off whatever is being sent or received now."""
        for sock in list(self.open_sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break off, and let nobody connect any more."""
        self.closed.set()
        self.abort_transfers()


def is_global_address(address: str) -> bool:
    """Is this a global unicast address? An IPv4 address inside an IPv6 one is judged by itself."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is not None:
            return is_global_address(str(inner))
    return ip.is_global and not ip.is_multicast


def make_session(policy: NetworkPolicy) -> requests.Session:
    """A session through `reach`: no proxies, no netrc, no cookies kept, no redirects or retries of its own."""
    new_session = _PlainSession()
    new_session.trust_env = False
    new_session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        new_session.mount(scheme, _PolicyAdapter(policy))
    return new_session


@contextmanager
def deadline(policy: NetworkPolicy, seconds: float) -> Iterator[threading.Event]:
    """Shut every connection of `reach` if the block takes longer; the event tells whether that happened.

    A time limit of the socket alone would not do: a server that sends a byte now and then never meets it.
    """
    expired = threading.Event()

    def expire() -> None:
        expired.set()
        policy.abort_transfers()

    timer = threading.Timer(seconds, expire)
    timer.daemon = True
    timer.start()
    try:
        yield expired
    finally:
        timer.cancel()


class _PlainSession(requests.Session):
    def resolve_redirects(self, *args: Any, **kwargs: Any) -> Iterator[Any]:
        """None, ever. Asked not to follow them, requests still reads a redirect's whole body and stumbles over a bad Location."""
        return iter(())


class _PolicyAdapter(HTTPAdapter):
    def __init__(self, policy: NetworkPolicy) -> None:
        self.policy = policy
        super().__init__(max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": type("Pool", (HTTPConnectionPool,), {"ConnectionCls": _connection_class(HTTPConnection, self.policy)}),
            "https": type("Pool", (HTTPSConnectionPool,), {"ConnectionCls": _connection_class(HTTPSConnection, self.policy)}),
        }


def _connection_class(base_class: Any, policy: NetworkPolicy) -> Any:
    """A connection class that asks `reach` where to connect. TLS still verifies the host's own name."""

    class Connection(base_class):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            policy.open_sockets.add(self.sock)  # with TLS another object than the one that connected

        def _new_conn(self) -> socket.socket:
            if policy.closed.is_set():
                raise NewConnectionError(self, "the crawl is over")
            try:
                targets = policy.resolve(self.host, self.port)
            except socket.gaierror as error:
                raise NameResolutionError(self.host, self, error) from error
            last_error: OSError | None = None
            for target in targets:
                try:
                    return create_connection(target, self.timeout, self.source_address, self.socket_options)
                except OSError as error:
                    last_error = error
            raise NewConnectionError(self, f"cannot connect: {last_error}") from last_error

    return Connection
