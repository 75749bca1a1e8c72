"""Addresses times keys."""

from dragoman.policy.endpoints import Endpoint, endpoints_of
from dragoman.settings import Secret, UpstreamConfig


def test_one_address_and_no_key_have_the_upstreams_name() -> None:
    plain = UpstreamConfig(base_url="http://a/v1")
    assert endpoints_of("lab", plain) == (
        Endpoint(name="lab", base_url="http://a/v1", credential=None),
    )


def test_each_address_with_each_key() -> None:
    many = UpstreamConfig(
        base_url="http://a/v1",
        base_urls=("http://a/v1", "http://b/v1"),
        api_keys=(Secret("one"), Secret("two")),
        credential_header="api-key",
    )
    found = [(e.name, e.base_url, e.credential) for e in endpoints_of("lab", many)]
    assert found == [
        ("lab/1", "http://a/v1", ("api-key", "one")),
        ("lab/2", "http://b/v1", ("api-key", "one")),
        ("lab/3", "http://a/v1", ("api-key", "two")),
        ("lab/4", "http://b/v1", ("api-key", "two")),
    ]


def test_a_list_of_one_is_no_list() -> None:
    one = UpstreamConfig(base_url="http://a", base_urls=("http://a",), api_keys=(Secret("k"),))
    assert [endpoint.name for endpoint in endpoints_of("lab", one)] == ["lab"]
