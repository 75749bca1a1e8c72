"""Which proxy the environment asks for."""

import pytest

from dragoman.server.transport.proxy import is_local, parse_base_url, parse_proxy, proxy_for

P, Q = "http://proxy.example:3128", "http://other.example:8080"
HTTPS, HTTP = "https://api.example.com/v1", "http://api.example.com/v1"


@pytest.mark.parametrize(
    ("base_url", "environ", "proxy"),
    [
        (HTTPS, {}, None),
        (HTTPS, {"HTTPS_PROXY": P}, P),
        (HTTPS, {"https_proxy": P}, P),
        (HTTPS, {"https_proxy": P, "HTTPS_PROXY": Q}, P),
        (HTTPS, {"https_proxy": " ", "HTTPS_PROXY": f" {Q} "}, Q),
        (HTTPS, {"HTTP_PROXY": P}, None),
        (HTTP, {"HTTP_PROXY": P, "HTTPS_PROXY": Q}, P),
        (HTTP, {"HTTPS_PROXY": Q}, None),
        (HTTP, {"ALL_PROXY": P}, P),
        (HTTPS, {"all_proxy": P, "https_proxy": Q}, Q),
        (HTTPS, {"HTTPS_PROXY": "proxy.example:3128"}, "http://proxy.example:3128"),
        (HTTPS, {"HTTPS_PROXY": "http://u:p%40@proxy.example"}, "http://u:p%40@proxy.example"),
        (HTTPS, {"HTTPS_PROXY": "socks5://proxy.example:1080"}, None),
        (HTTPS, {"ALL_PROXY": "socks5h://proxy.example:1080"}, None),
        (HTTPS, {"HTTPS_PROXY": "https://proxy.example"}, None),
    ],
)
def test_the_scheme_decides(base_url: str, environ: dict[str, str], proxy: str | None) -> None:
    assert proxy_for(base_url, environ) == proxy


@pytest.mark.parametrize(
    ("base_url", "no_proxy", "is_direct"),
    [
        (HTTPS, "*", True),
        (HTTPS, "api.example.com", True),
        (HTTPS, "API.Example.COM", True),
        (HTTPS, "example.com", True),
        (HTTPS, ".example.com", True),
        (HTTPS, "*.example.com", True),
        (HTTPS, "example.com.", True),
        (HTTPS, "ample.com", False),
        (HTTPS, "com", True),
        (HTTPS, "api", False),
        (HTTPS, "a.example, other.example  example.com", True),
        (HTTPS, "a.example,,", False),
        (HTTPS, "", False),
        (HTTPS, "example.com:443", True),
        (HTTPS, "example.com:8443", False),
        (HTTP, "example.com:80", True),
        ("https://example.com:8443", "example.com:8443", True),
        ("https://10.1.2.3", "10.1.2.3", True),
        ("https://10.1.2.3", "10.1.2.3:443", True),
        ("https://10.1.2.3", "10.1.2.3:80", False),
        ("https://10.1.2.3", "10.0.0.0/8", True),
        ("https://10.1.2.3", "10.1.2.9/24", True),
        ("https://11.1.2.3", "10.0.0.0/8", False),
        ("https://10.1.2.3", "10.0.0.0/99", False),
        ("https://10.1.2.3", "fd00::/8", False),
        ("https://10.1.2.3", "2.3", False),
        (HTTPS, "10.0.0.0/8", False),
        ("https://[fd00::1]:8443/v1", "fd00::/8", True),
        ("https://[fd00::1]:8443/v1", "fd00::1", True),
        ("https://[fd00::1]:8443/v1", "[fd00::1]", True),
        ("https://[fd00::1]:8443/v1", "[fd00:0::1]:8443", True),
        ("https://[fd00::1]:8443/v1", "[fd00::1]:443", False),
        ("https://[fd00::1]:8443/v1", "[", False),
    ],
)
@pytest.mark.parametrize("name", ["NO_PROXY", "no_proxy"])
def test_exemptions(base_url: str, no_proxy: str, is_direct: bool, name: str) -> None:
    proxy = proxy_for(base_url, {"ALL_PROXY": P, name: no_proxy})
    assert proxy == (None if is_direct else P)


LOCAL = ["localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.1.2.3", "[::1]", "0.0.0.0"]
LOCAL += ["[::ffff:127.0.0.1]"]


@pytest.mark.parametrize("host", LOCAL)
def test_this_machine_is_never_asked_through_a_proxy(host: str) -> None:
    environ = {"ALL_PROXY": P, "HTTP_PROXY": P, "HTTPS_PROXY": P}
    assert proxy_for(f"http://{host}:8000/v1", environ) is None
    assert proxy_for(f"https://{host}:8000/v1", environ) is None


@pytest.mark.parametrize("host", ["localhost.example.com", "128.0.0.1", "::2", "notlocalhost", ""])
def test_other_machines_are_not_this_one(host: str) -> None:
    assert not is_local(host)


@pytest.mark.parametrize(
    ("url", "host", "port", "authorization"),
    [
        ("http://proxy.example:3128", "proxy.example", 3128, ""),
        ("HTTP://Proxy.Example", "proxy.example", 80, ""),
        ("http://10.0.0.1:3128/", "10.0.0.1", 3128, ""),
        ("http://[fd00::1]:3128", "fd00::1", 3128, ""),
        ("http://me:pw@proxy.example:3128", "proxy.example", 3128, "Basic bWU6cHc="),
        ("http://me:p%40:w@proxy.example", "proxy.example", 80, "Basic bWU6cEA6dw=="),
        ("http://me@proxy.example", "proxy.example", 80, "Basic bWU6"),
    ],
)
def test_a_proxy_url_is_taken_apart(url: str, host: str, port: int, authorization: str) -> None:
    proxy = parse_proxy(url)
    assert (proxy.target.host, proxy.target.port) == (host, port)
    assert proxy.authorization == authorization


@pytest.mark.parametrize(
    "url",
    [
        "socks5://me:secret@a",
        "https://me:secret@a",
        "http://me:secret@",
        "http://me:secret@a:x",
        "a",
    ],
)
def test_a_proxy_url_that_is_none_is_not_shown(url: str) -> None:
    with pytest.raises(ValueError, match="a proxy's URL") as caught:
        parse_proxy(url)
    assert "secret" not in str(caught.value)


def test_a_base_url_is_taken_apart() -> None:
    target = parse_base_url("https://API.example.com:8443/v1/")
    assert (target.scheme, target.authority, target.path) == (
        "https",
        "api.example.com:8443",
        "/v1",
    )
    assert parse_base_url("http://a").path == ""
