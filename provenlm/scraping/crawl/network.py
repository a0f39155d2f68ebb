"""Open HTTP connections to public addresses and allowed private hosts only.

Guards against server-side request forgery: a host is resolved once, every address is checked, and the connection is made to
the checked address, so that a second DNS response cannot lead elsewhere. Proxies, cookies and environment variables are
ignored.
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

# IPv6 prefixes whose last 32 bits are an IPv4 address: compatible and mapped (RFC 4291), translated (RFC 2765), NAT64 (RFC 6052).
EMBEDDING_PREFIXES = tuple(map(ipaddress.IPv6Network, ("::/96", "::ffff:0:0/96", "::ffff:0:0:0/96", "64:ff9b::/96")))
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")  # RFC 8215: translated by the local network


class PrivateAddressError(Exception):
    """Report a private address of a host that is not in `allowed_private_hosts`."""


@dataclass(frozen=True)
class NetworkPolicy:
    """Decide to which hosts and addresses connections are allowed.

    `routes` maps a host to a fixed address and port, like `curl --connect-to`.
    """

    allowed_private_hosts: Sequence[str]
    routes: Mapping[str, tuple[str, int]]
    open_sockets: weakref.WeakSet[socket.socket] = field(default_factory=weakref.WeakSet)
    closed: threading.Event = field(default_factory=threading.Event)

    def resolve(self, host: str, port: int) -> list[tuple[str, int]]:
        """Return the addresses and ports of `host`.

        Raises PrivateAddressError, or socket.gaierror for an unknown name.
        """
        if host in self.routes:
            return [self.routes[host]]
        infos = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
        addresses = [str(item[4][0]) for item in infos]
        private = [address for address in addresses if not is_global_address(address)]
        if private and host.strip("[]") not in self.allowed_private_hosts:
            raise PrivateAddressError(
                f"{host} is at {private[0]}, which is not a public address; allowed_private_hosts must list the host"
            )
        return [(address, port) for address in addresses]

    def abort_transfers(self) -> None:
        """Shut down every open connection."""
        for sock in list(self.open_sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Shut down every open connection and refuse new ones."""
        self.closed.set()
        self.abort_transfers()


def is_global_address(address: str) -> bool:
    """Return whether an address is global unicast.

    An IPv4 address embedded in an IPv6 address (mapped, compatible, translated, 6to4, Teredo, NAT64) is checked as IPv4.
    """
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if any(ip in prefix for prefix in EMBEDDING_PREFIXES):
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_global_address(str(inner))
        if ip.is_site_local or ip in LOCAL_NAT64:
            return False
    return ip.is_global and not ip.is_multicast


def make_session(policy: NetworkPolicy) -> requests.Session:
    """Create a session bound to `policy`.

    It uses no proxies, netrc, cookies, redirects or retries.
    """
    new_session = _PlainSession()
    new_session.trust_env = False
    new_session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    for scheme in ("http://", "https://"):
        new_session.mount(scheme, _PolicyAdapter(policy))
    return new_session


@contextmanager
def deadline(policy: NetworkPolicy, seconds: float) -> Iterator[threading.Event]:
    """Shut down every connection of `policy` if the block takes longer.

    Yields an event that is set if that happened. The timeout of the socket is not enough: a server that sends one byte now
    and then never exceeds it.
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
        """Follow no redirect.

        Even with `allow_redirects=False`, requests would read the body and fail on a malformed Location.
        """
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
    """Create a connection class that resolves hosts by `policy`.

    TLS still verifies the name of the host.
    """

    class Connection(base_class):  # type: ignore[misc]
        def connect(self) -> None:
            super().connect()
            policy.open_sockets.add(self.sock)  # TLS replaces the socket that connected

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
