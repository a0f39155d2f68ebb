import pytest

from provenlm.scraping.crawl.network import NetworkPolicy, PrivateAddressError, is_global_address, make_session


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
     "::1", "::", "fe80::1%eth0", "fc00::1", "ff02::1", "fec0::1", "::ffff:127.0.0.1", "2002:7f00:1::",
     "::127.0.0.1", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::7f00:1"],
)  # fmt: skip
def test_an_address_that_is_not_global_is_private(address: str) -> None:
    assert not is_global_address(address)


@pytest.mark.parametrize("address", ["8.8.8.8", "1.1.1.1", "2001:4860:4860::8888", "::ffff:8.8.8.8", "64:ff9b::8.8.8.8"])
def test_a_global_address_is_public(address: str) -> None:
    assert is_global_address(address)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]", "0x7f000001", "2130706433"])
def test_a_private_host_is_refused_however_it_is_written(host: str) -> None:
    with pytest.raises(PrivateAddressError, match="allowed_private_hosts"):
        NetworkPolicy((), {}).resolve(host, 80)


def test_a_private_host_is_allowed_by_name() -> None:
    assert ("127.0.0.1", 80) in NetworkPolicy(("localhost",), {}).resolve("localhost", 80)


def test_a_routed_host_needs_no_dns() -> None:
    assert NetworkPolicy((), {"no.such.invalid": ("127.0.0.1", 81)}).resolve("no.such.invalid", 80) == [("127.0.0.1", 81)]


def test_no_cookie_is_sent_back(web) -> None:
    web.pages["/"] = (200, {"Set-Cookie": "a=1"}, b"")
    door = make_session(NetworkPolicy(("127.0.0.1",), {}))
    door.get(web.url)
    door.get(web.url)
    assert [headers.get("Cookie") for headers in web.headers["/"]] == [None, None]


def test_proxy_environment_variables_are_ignored(web, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    web.html("/")
    assert make_session(NetworkPolicy(("127.0.0.1",), {})).get(web.url).status_code == 200
