"""Addresses times keys."""

from typing import Any

import pytest

from dragoman.policy.choice import by_affinity
from dragoman.policy.endpoints import Endpoint, endpoints_of, shared_names
from dragoman.policy.routes import Routes
from dragoman.settings import Config, ModelConfig, Secret, UpstreamConfig


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


def homes_of(*hosts: str) -> list[str]:
    """Return the address that each of many conversations is led to."""
    urls = tuple(f"http://{host}/v1" for host in hosts)
    lab = UpstreamConfig(base_url=urls[0], base_urls=urls)
    config = Config(upstreams={"lab": lab}, models={"m": ModelConfig(upstream=("lab",))})
    addresses = {each.name: each.base_url for each in endpoints_of("lab", lab)}
    targets = Routes(config).resolve("m").targets
    keys = (str(number).encode() for number in range(300))
    return [addresses[by_affinity(targets, key)[0].endpoint] for key in keys]


def test_conversations_stay_at_their_address_wherever_it_stands_in_the_list() -> None:
    before = homes_of("a", "b", "c")
    assert homes_of("c", "a", "b") == before
    assert set(before) == {"http://a/v1", "http://b/v1", "http://c/v1"}
    rest = homes_of("b", "c")  # the first one goes, and the others move up
    assert [r for r, b in zip(rest, before, strict=True) if b != "http://a/v1"] == [
        b for b in before if b != "http://a/v1"
    ]


@pytest.mark.parametrize(
    ("changes", "secret"),
    [
        ({"base_url": "http://b/v1"}, b"s"),
        ({"api_key": Secret("another")}, b"s"),
        ({"headers": {"x-key": Secret("another")}}, b"s"),
        ({}, b"another"),
    ],
)
def test_others_know_an_endpoint_by_all_that_leads_to_it(
    changes: dict[str, Any], secret: bytes
) -> None:
    settings: dict[str, Any] = {"base_url": "http://a/v1", "api_key": Secret("one")}
    names = shared_names({"lab": UpstreamConfig(**settings)}, b"s")
    assert names == shared_names({"lab": UpstreamConfig(**settings)}, b"s")
    changed = shared_names({"lab": UpstreamConfig(**settings | changes)}, secret)
    assert names.keys() == changed.keys() == {"lab"}
    assert names != changed


def test_others_know_an_endpoint_wherever_it_stands() -> None:
    urls = ("http://a/v1", "http://b/v1")
    one = shared_names({"lab": UpstreamConfig(base_url=urls[0], base_urls=urls)}, b"s")
    other = shared_names({"lab": UpstreamConfig(base_url=urls[1], base_urls=urls[::-1])}, b"s")
    assert one == {"lab/1": other["lab/2"], "lab/2": other["lab/1"]}
    assert one["lab/1"] != one["lab/2"]
