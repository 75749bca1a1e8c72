"""Make plans: read what a request holds or points at, then decide everything about the call."""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from dragoman.core.adjustments import Action, Adjustment
from dragoman.core.attachments import Attachment, find_attachments, find_urls
from dragoman.core.errors import InvalidRequest
from dragoman.core.history import Recall
from dragoman.core.plan import Plan, make_plan, plan_anything, plan_texts
from dragoman.core.signatures import Signer
from dragoman.core.tool_memory import ToolMemory
from dragoman.policy.calibration import Calibration
from dragoman.policy.learned import LearnedFacts
from dragoman.policy.routes import Target
from dragoman.server.documents import Documents, Resolved
from dragoman.server.fetch import GuardedFetcher
from dragoman.server.url_guard import Reach
from dragoman.wire.anthropic import MessagesRequest

_PARALLEL_CHECKS: Final = 8
_MAX_URLS: Final = 600  # per request; the API's own limit for images
_CHECKS_TIMEOUT_S: Final = 60.0  # for all of them


class Planner:
    """
    Plan requests for targets.

    Args:
        documents: Reads PDFs and linked documents, checks the URLs of images.
        fetcher: Checks URLs that a native upstream will fetch.
        signer: Reads thinking that our own signatures carry.
        learned: What refusals have taught about deployments.
        calibration: What upstreams have counted beside our estimates.

    Attributes:
        calibration: The same, to be told of further counts.
        memory: Of tools, also for whoever reads requests that are to be planned here.
    """

    def __init__(
        self,
        documents: Documents,
        fetcher: GuardedFetcher,
        signer: Signer,
        *,
        learned: LearnedFacts,
        calibration: Calibration,
    ) -> None:
        self._documents = documents
        self._fetcher = fetcher
        self._signer = signer
        self._learned = learned
        self.calibration = calibration
        self.memory = ToolMemory()

    def plan_at_once(
        self, request: MessagesRequest, target: Target, *, recall: Recall | None = None
    ) -> Plan | None:
        """
        Return what ``plan`` would, without a task for it; None: something must be read first.

        Raises:
            InvalidRequest: As ``make_plan``.
        """
        deployment, learned, calibration = target.deployment, self._learned, self.calibration
        if learned.has_any:
            deployment = learned.apply(deployment)
        ratio = calibration.ratio(deployment) if calibration.has_any else 1.0
        memory = self.memory
        plan = plan_texts(request, deployment, is_stream=True, estimate_ratio=ratio, memory=memory)
        if plan is not None:
            return plan
        if find_attachments(request, sees_images=deployment.profile.sees_images):
            return None
        return plan_anything(
            request,
            deployment,
            signer=self._signer,
            texts={},
            recall=recall,
            estimate_ratio=ratio,
            memory=memory,
        )

    async def plan(
        self, request: MessagesRequest, target: Target, *, recall: Recall | None = None
    ) -> Plan:
        """
        Return the plan for a chat-completions upstream.

        Args:
            request: As parsed.
            target: Where it goes.
            recall: Finds reasoning that the client has not sent back.

        Raises:
            InvalidRequest: As ``make_plan``; or a URL is refused or leads nowhere.
            Overloaded: Too many documents are being read.
        """
        deployment = self._learned.apply(target.deployment)
        found = find_attachments(request, sees_images=deployment.profile.sees_images)
        resolved = Resolved()
        if found:
            resolved = await self._documents.resolve(found, _reach(target))
        plan = make_plan(
            request,
            deployment,
            signer=self._signer,
            texts=resolved.texts,
            recall=recall,
            estimate_ratio=self.calibration.ratio(deployment),
            memory=self.memory,
        )
        if resolved.reasons:
            said = (*plan.adjustments, *_document_adjustments(found, resolved))
            plan = msgspec.structs.replace(plan, adjustments=said)
        return plan

    async def check_urls(self, request: MessagesRequest, target: Target) -> None:
        """
        Check what a native upstream is asked to fetch.

        Raises:
            InvalidRequest: A URL is not http(s), or its host is not public; or there are too many.
        """
        urls: dict[str, str] = {}
        for path, url in find_urls(request):
            urls.setdefault(url, path)
        if len(urls) > _MAX_URLS:
            raise InvalidRequest("messages", f"at most {_MAX_URLS} URLs are looked up; send fewer")
        if not urls:
            return
        try:
            async with asyncio.timeout(_CHECKS_TIMEOUT_S):
                await self._check_all(urls, reach=_reach(target))
        except TimeoutError:
            reason = "the URLs take too long to look up; send fewer"
            raise InvalidRequest("messages", reason) from None

    async def _check_all(self, urls: Mapping[str, str], *, reach: Reach) -> None:
        """Check URLs, a few at a time; the first that is refused decides."""
        slots = asyncio.Semaphore(_PARALLEL_CHECKS)

        async def check(url: str, path: str) -> None:
            async with slots:
                await self._fetcher.check_public(url, path=path, reach=reach)

        tasks = [asyncio.create_task(check(url, path)) for url, path in urls.items()]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _reach(target: Target) -> Reach:
    return Reach(allow_private=target.allow_private_urls, hosts=target.url_hosts)


def _document_adjustments(found: Sequence[Attachment], resolved: Resolved) -> list[Adjustment]:
    """Return why documents are missing, or what is missing from them."""
    said: dict[str, Adjustment] = {}
    for attachment in found:
        reason = resolved.reasons.get(attachment.key)
        if reason is not None and attachment.key not in said:
            action: Action = "clamped" if attachment.key in resolved.texts else "dropped"
            said[attachment.key] = Adjustment(attachment.path, action, reason)
    return list(said.values())
