"""All operations of the admin API, put together."""

from collections.abc import Callable, Sequence
from typing import Any

from dragoman.limit_settings import Limits
from dragoman.policy.registry import Registry
from dragoman.policy.store import GetStore
from dragoman.server.admin.openapi import describe
from dragoman.server.admin.operations import Ask, Operation
from dragoman.server.admin.organization import ModelLimits, Organization, OrganizationApi
from dragoman.server.admin.own import OwnApi
from dragoman.server.admin.reports import Reports

_CONFIGURED = "config:"


def admin_operations(
    get_store: GetStore,
    *,
    organization: Organization,
    models: Callable[[], Sequence[ModelLimits]],
    workspace_limits: Callable[[], Limits],
    more: Sequence[Operation] = (),
) -> list[Operation]:
    """
    Return what is served, its description among it.

    Args:
        get_store: Opens the store.
        organization: What the gateway is called outside.
        models: Returns the models that are served, with their limits.
        workspace_limits: Returns what holds for each workspace that says nothing else.
        more: Operations of other parts.
    """
    registry = Registry(get_store, aliases=lambda: [model.alias for model in models()])
    own = OwnApi(registry, get_store)
    theirs = OrganizationApi(
        registry,
        get_store,
        organization=organization,
        models=models,
        workspace_limits=workspace_limits,
    )

    async def key_name(key_id: str) -> str:
        if key_id.startswith(_CONFIGURED):
            return key_id.removeprefix(_CONFIGURED)
        key = await (await get_store()).get_key(key_id)
        return key.name if key else key_id

    reports = Reports(get_store, key_name=key_name, organization_id=organization.id)
    operations = [*own.operations(), *theirs.operations(), *reports.operations(), *more]

    async def description(_: Ask) -> dict[str, Any]:
        return describe(operations)

    operations.append(
        Operation(
            method="GET",
            path="/admin/v1/openapi.json",
            role="read",
            about="Describe this API.",
            run=description,
        )
    )
    return operations
