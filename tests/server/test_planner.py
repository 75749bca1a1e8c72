"""Plans, and what is read, fetched and checked for them."""

import asyncio
import base64
from collections.abc import Sequence
from typing import Any

import pytest

from dragoman.core.dialects.profile import DialectProfile
from dragoman.core.errors import InvalidRequest
from dragoman.core.plan import Deployment
from dragoman.core.signatures import Signer
from dragoman.policy.calibration import Calibration
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.routes import Target
from dragoman.server.documents import Documents
from dragoman.server.fetch import GuardedFetcher
from dragoman.server.planner import Planner
from dragoman.wire.anthropic import MessagesRequest
from support.files import make_pdf
from support.plans import MINIMAL, parse


class Names:
    """Look-ups that are recorded and never leave the process."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.asked: list[str] = []
        self.at_once = self.most_at_once = 0
        self._delay_s = delay_s

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(f"{host}:{port}")
        self.at_once += 1
        self.most_at_once = max(self.at_once, self.most_at_once)
        try:
            await asyncio.sleep(self._delay_s)
        finally:
            self.at_once -= 1
        return ["10.0.0.1"] if host.startswith("inside") else ["93.184.216.34"]


def planner(names: Names) -> Planner:
    fetcher = GuardedFetcher(resolve=names)
    return Planner(
        Documents(fetcher),
        fetcher,
        Signer(b"a secret of sixteen bytes or more"),
        learned=LearnedFacts(),
        calibration=Calibration(),
    )


def target(*, sees_images: bool = True, allow_private: bool = False) -> Target:
    profile = DialectProfile(sees_images=sees_images)
    return Target(
        deployment=Deployment(upstream="lab", model="m", profile=profile),
        endpoint="lab",
        id="lab m",
        home="lab m",
        connect_timeout_s=1,
        first_byte_timeout_s=1,
        idle_timeout_s=1,
        retries=0,
        allow_private_urls=allow_private,
    )


def request(*content: dict[str, Any]) -> MessagesRequest:
    return parse(MINIMAL | {"messages": [{"role": "user", "content": list(content)}]})


def image(url: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


def pdf(raw: bytes, **fields: Any) -> dict[str, Any]:
    data = base64.b64encode(raw).decode()
    source = {"type": "base64", "media_type": "application/pdf", "data": data}
    return {"type": "document", "source": source, **fields}


def test_without_attachments_nothing_is_looked_at() -> None:
    names = Names()
    plan = asyncio.run(planner(names).plan(parse(MINIMAL), target()))
    assert plan.body["messages"] == [{"role": "user", "content": "Hi"}]
    assert names.asked == []


def test_urls_of_pictures_are_looked_up_for_models_that_see() -> None:
    names = Names()
    asked = request(image("https://a.example/x"), image("https://a.example/x"))
    asyncio.run(planner(names).plan(asked, target()))
    assert names.asked == ["a.example:443"]
    names = Names()
    asyncio.run(planner(names).plan(asked, target(sees_images=False)))
    assert names.asked == []


def test_the_first_place_of_a_refused_url_is_named() -> None:
    bad = image("http://inside.example/x")
    asked = request(image("https://a.example/x"), bad, bad)
    for check in (Planner.plan, Planner.check_urls):
        with pytest.raises(InvalidRequest) as caught:
            asyncio.run(check(planner(Names()), asked, target()))
        assert caught.value.path == "messages.0.content.1.source.url"


def test_private_urls_are_a_matter_of_the_upstream() -> None:
    names = Names()
    asked = request(image("http://inside.example/x"), image("http://10.0.0.1/x"))
    for check in (Planner.plan, Planner.check_urls):
        asyncio.run(check(planner(names), asked, target(allow_private=True)))
    assert names.asked == []


def test_many_urls_are_looked_up_a_few_at_a_time() -> None:
    names = Names(0.005)
    asked = request(*(image(f"https://n{n}.example/x") for n in range(100)))
    asyncio.run(planner(names).check_urls(asked, target()))
    assert len(names.asked) == 100
    assert names.most_at_once <= 8


def test_the_first_refusal_ends_the_look_at_the_others() -> None:
    names = Names(0.01)
    urls = [f"https://n{n}.example/x" for n in range(100)]
    asked = request(image("http://inside.example/x"), *map(image, urls))

    async def main() -> None:
        with pytest.raises(InvalidRequest):
            await planner(names).check_urls(asked, target())
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert len(names.asked) < 50


def test_the_look_at_urls_takes_a_bounded_time(monkeypatch) -> None:
    monkeypatch.setattr("dragoman.server.planner._CHECKS_TIMEOUT_S", 0.05)
    asked = request(*(image(f"https://n{n}.example/x") for n in range(100)))

    async def main() -> None:
        async with asyncio.timeout(10):
            with pytest.raises(InvalidRequest, match="too long to look up"):
                await planner(Names(5.0)).check_urls(asked, target())

    asyncio.run(main())


def test_urls_are_looked_up_once_each_and_not_too_many() -> None:
    names = Names()
    same = request(*[image("https://a.example/x")] * 700)
    asyncio.run(planner(names).check_urls(same, target()))
    assert len(names.asked) == 1
    many = request(*(image(f"https://a.example/{n}") for n in range(601)))
    with pytest.raises(InvalidRequest, match="at most 600 URLs"):
        asyncio.run(planner(names).check_urls(many, target()))


def test_documents_are_read_and_what_is_missing_is_told() -> None:
    names = Names()

    async def main() -> None:
        fetcher = GuardedFetcher(resolve=names)
        documents = Documents(fetcher)
        subject = Planner(
            documents,
            fetcher,
            Signer(b"a secret of sixteen bytes or more"),
            learned=LearnedFacts(),
            calibration=Calibration(),
        )
        broken, good = pdf(b"no pdf at all"), pdf(make_pdf("Words on a page"), title="Good")
        plan = await subject.plan(request(broken, good, broken), target())
        await documents.close()
        text = str(plan.body["messages"])
        assert "Words on a page" in text
        fields = [(a.field, a.action) for a in plan.adjustments if a.action == "dropped"]
        assert ("messages.0.content.0.source.data", "dropped") in fields
        assert not any(".content.1." in field for field, _ in fields)

    asyncio.run(main())
