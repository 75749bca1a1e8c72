"""Table of URLs and addresses that must never be reached."""

from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dragoman.server.url_guard import (
    PUBLIC,
    Reach,
    UrlRefused,
    check_address,
    check_host,
    parse_url,
)

# No look-up is needed to refuse these.
HOSTILE_URLS = {
    "file": "file:///etc/passwd",
    "ftp": "ftp://example.com/a.pdf",
    "gopher": "gopher://example.com:70/_x",
    "data": "data:text/plain,hello",
    "javascript": "javascript:alert(1)",
    "no scheme": "example.com/a.pdf",
    "scheme-relative": "//example.com/a.pdf",
    "empty": "",
    "no host": "http:///a.pdf",
    "no host with port": "http://:80/",
    "user": "http://user@example.com/",
    "password": "https://user:secret@example.com/",
    "empty user": "http://@example.com/",
    "user that looks like a host": "http://example.com@127.0.0.1/",
    "backslash host": "http://example.com\\@127.0.0.1/",
    "backslashes for slashes": "http:\\\\127.0.0.1/",
    "tab in scheme": "ht\ttp://example.com/",
    "newline": "http://example.com/\r\nHost: x",
    "leading space": " http://example.com/",
    "NUL": "http://example.com\0.evil.org/",
    "zero-width": "http://exa\u200bmple.com/",
    "half surrogate": "http://example.com/\ud800",
    "port 0": "http://example.com:0/",
    "port too large": "http://example.com:65536/",
    "port not a number": "http://example.com:80a/",
    "two ports": "http://example.com:80:81/",
    "localhost": "http://localhost/",
    "localhost upper": "http://LOCALHOST/",
    "localhost dot": "http://localhost./",
    "below localhost": "http://a.localhost/",
    "single label": "http://router/",
    "mdns": "http://printer.local/",
    "cloud name": "http://metadata.google.internal/computeMetadata/v1/",
    "home": "http://nas.home.arpa/",
    "loopback": "http://127.0.0.1/",
    "loopback dot": "http://127.0.0.1./",
    "loopback net": "http://127.255.3.4/",
    "short": "http://127.1/",
    "one number": "http://2130706433/",
    "hex number": "http://0x7f000001/",
    "hex parts": "http://0x7f.0.0.1/",
    "octal": "http://0177.0.0.1/",
    "leading zeros": "http://010.0.0.1/",
    "five parts": "http://1.2.3.4.5/",
    "name ending in a number": "http://evil.com.1/",
    "full-width digits": "http://１２７.0.0.1/",
    "ideographic dots": "http://127。0。0。1/",
    "circled letters": "http://ⓛocalhost/",
    "percent in host": "http://%31%32%37.0.0.1/",
    "unspecified": "http://0.0.0.0/",
    "zero": "http://0/",
    "private 10": "http://10.0.0.1/",
    "private 172": "http://172.31.255.255/",
    "private 192": "http://192.168.1.1/",
    "carrier NAT": "http://100.64.0.1/",
    "metadata": "http://169.254.169.254/latest/meta-data/",
    "metadata Alibaba": "http://100.100.100.200/",
    "metadata Oracle": "http://192.0.0.192/",
    "platform Azure": "http://168.63.129.16/",
    "benchmark": "http://198.18.0.1/",
    "multicast": "http://224.0.0.1/",
    "broadcast": "http://255.255.255.255/",
    "reserved": "http://240.0.0.1/",
    "v6 loopback": "http://[::1]/",
    "v6 unspecified": "http://[::]/",
    "v6 mapped loopback": "http://[::ffff:127.0.0.1]/",
    "v6 mapped hex": "http://[::ffff:7f00:1]/",
    "v6 compatible": "http://[::127.0.0.1]/",
    "v6 unique local": "http://[fd00::1]/",
    "v6 metadata": "http://[fd00:ec2::254]/",
    "v6 link-local": "http://[fe80::1]/",
    "v6 scope": "http://[fe80::1%25eth0]/",
    "v6 site-local": "http://[fec0::1]/",
    "v6 multicast": "http://[ff02::1]/",
    "v6 documentation": "http://[2001:db8::1]/",
    "6to4 of loopback": "http://[2002:7f00:1::]/",
    "Teredo": "http://[2001:0:4136:e378::1]/",
    "NAT64 of private": "http://[64:ff9b::10.0.0.1]/",
    "NAT64 of metadata": "http://[64:ff9b::a9fe:a9fe]/",
    "NAT64 local": "http://[64:ff9b:1::8.8.8.8]/",
    "ISATAP of private": "http://[2600::5efe:10.0.0.1]/",
    "v6 in the middle": "http://a[::1]b/",
    "v6 broken": "http://[::1/",
    "v6 without brackets": "http://::1/",
    "v6 future": "http://[v1.a]/",
    "host of 300 characters": "http://" + "a." * 150 + "com/",
    "empty label": "http://a..com/",
    "star": "http://*.example.com/",
    "URL of 9000 characters": "http://example.com/" + "a" * 9000,
}


@pytest.mark.parametrize("url", HOSTILE_URLS.values(), ids=HOSTILE_URLS)
def test_hostile_url_is_refused(url: str) -> None:
    with pytest.raises(UrlRefused):
        check_host(parse_url(url), PUBLIC)


GOOD_URLS = {
    "plain": ("http://example.com", "http://example.com/"),
    "upper case, dot, default port": ("HTTPS://Example.COM.:443/A", "https://example.com/A"),
    "port": ("http://example.com:8080/a", "http://example.com:8080/a"),
    "query, no fragment": ("https://example.com/a?b=c&d=%20#e", "https://example.com/a?b=c&d=%20"),
    "umlaut": ("https://bücher.example/ä?ö", "https://xn--bcher-kva.example/%C3%A4?%C3%B6"),
    "underscore": ("https://a_b.example.com/", "https://a_b.example.com/"),
    "address": ("http://8.8.8.8:53/", "http://8.8.8.8:53/"),
    "v6": ("http://[2606:4700:0::1111]:81/", "http://[2606:4700::1111]:81/"),
    "local-looking label": ("http://local.example.com/", "http://local.example.com/"),
}


@pytest.mark.parametrize(("url", "canonical"), GOOD_URLS.values(), ids=GOOD_URLS)
def test_good_url(url: str, canonical: str) -> None:
    target = parse_url(url)
    check_host(target, PUBLIC)
    assert target.url == canonical


LAB = ["127.0.0.1", "10.1.2.3", "192.168.0.7", "100.64.1.1", "::1", "fd12::1", "::ffff:10.0.0.1"]
NOT_EVEN_IN_A_LAB = [
    *("169.254.169.254", "100.100.100.200", "192.0.0.192", "0.0.0.0", "224.0.0.1"),
    *("255.255.255.255", "fe80::1", "fe80::1%eth0", "fd00:ec2::254", "ff02::1", "::"),
    *("::ffff:169.254.169.254", "64:ff9b::a9fe:a9fe", "2002:a9fe:a9fe::", "not an address"),
]


@pytest.mark.parametrize("address", LAB)
def test_lab_address_needs_the_switch(address: str) -> None:
    check_address(address, allow_private=True)
    with pytest.raises(UrlRefused):
        check_address(address, allow_private=False)


@pytest.mark.parametrize("address", NOT_EVEN_IN_A_LAB)
@pytest.mark.parametrize("allow_private", [True, False])
def test_metadata_is_never_reached(address: str, allow_private: bool) -> None:
    with pytest.raises(UrlRefused):
        check_address(address, allow_private=allow_private)


def is_accepted(address: IPv4Address | IPv6Address, allow_private: bool = False) -> bool:
    try:
        check_address(address, allow_private=allow_private)
    except UrlRefused:
        return False
    return True


@given(st.ip_addresses(v=4))
def test_python_agrees_on_every_private_address(address: IPv4Address) -> None:
    if not address.is_global or address.is_multicast:
        assert not is_accepted(address)


@given(st.ip_addresses(v=4))
def test_carried_addresses_are_judged_like_plain_ones(address: IPv4Address) -> None:
    bits = int(address)
    carriers = [
        IPv6Address((0xFFFF << 32) | bits),
        IPv6Address((0x64FF9B << 96) | bits),
        IPv6Address((0x2002 << 112) | (bits << 80)),
    ]
    assert [is_accepted(carrier) for carrier in carriers] == [is_accepted(address)] * 3


@given(st.ip_addresses())
def test_what_is_public_is_allowed_in_a_lab_too(address: IPv4Address | IPv6Address) -> None:
    assert not is_accepted(address) or is_accepted(address, allow_private=True)


@given(st.text(max_size=60))
def test_only_url_refused_comes_out(tail: str) -> None:
    for url in (tail, "http://" + tail):
        try:
            target = parse_url(url)
            check_host(target, PUBLIC)
        except UrlRefused:
            continue
        assert target.url.isascii()
        assert parse_url(target.url) == target


def test_public_samples() -> None:
    assert all(map(is_accepted, map(ip_address, ["1.1.1.1", "2a00:1450::1", "::ffff:8.8.8.8"])))


PATTERNS = Reach(hosts=("docs.example.com", "*.CDN.example"))


@pytest.mark.parametrize(
    "url", ["https://docs.example.com/a", "http://DOCS.example.com./a", "https://a.b.cdn.example/x"]
)
def test_a_host_that_the_workspace_may_use(url: str) -> None:
    check_host(parse_url(url), PATTERNS)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/docs.example.com",
        "https://docs.example.com.evil.example/",
        "https://xdocs.example.com/",
        "https://cdn.example/",
        "https://93.184.216.34/",
    ],
)
def test_a_host_of_no_pattern(url: str) -> None:
    with pytest.raises(UrlRefused, match="this workspace may not use"):
        check_host(parse_url(url), PATTERNS)


def test_patterns_do_not_open_private_networks() -> None:
    with pytest.raises(UrlRefused, match="public host"):
        check_host(parse_url("http://inner.lab.internal/"), Reach(hosts=("*",)))
