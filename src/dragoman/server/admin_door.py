"""The way to the admin API, which is loaded when somebody first asks for it."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from dragoman.core.errors import UnknownPath
from dragoman.policy.routes import Routes
from dragoman.policy.store import GetStore
from dragoman.server.admin_access import AdminAccess
from dragoman.server.explain import Explainer
from dragoman.server.telemetry import EventLog, RequestRecord
from dragoman.server.transport.seams import Exchange, HeaderList
from dragoman.settings import Config

if TYPE_CHECKING:
    from dragoman.server.admin.site import AdminApi

_BELOW: Final = ("/admin/v1/", "/v1/organizations/")


def is_admin_path(path: str) -> bool:
    """Tell whether *path* belongs to the admin API."""
    return path.startswith(_BELOW)


class AdminDoor:
    """
    Answer administrators.

    Args:
        config: Of the gateway.
        routes: Its models.
        get_store: Opens what is administered.
        access: Knows administrators.
        explainer: Says what would become of a request.
        organization_id: What ``/v1/organizations/me`` says.
        log: Told of every change.
    """

    def __init__(
        self,
        config: Config,
        routes: Routes,
        *,
        get_store: GetStore,
        access: AdminAccess,
        explainer: Explainer,
        organization_id: str,
        log: EventLog,
    ) -> None:
        self._config = config
        self._routes = routes
        self._get_store = get_store
        self._access = access
        self._explainer = explainer
        self._organization_id = organization_id
        self._log = log
        self._api: AdminApi | None = None

    async def serve(
        self, exchange: Exchange, path: str, *, record: RequestRecord, headers: HeaderList
    ) -> None:
        """
        Answer one request.

        Raises:
            GatewayError: The caller answers.
        """
        if not is_admin_path(path):
            raise UnknownPath("nothing but the admin API is served here, below /admin/v1")
        if self._api is None:
            self._api = self._make()
        await self._api.serve(exchange, path, record=record, headers=headers)

    def _make(self) -> "AdminApi":
        from dragoman.server.admin.assembly import admin_operations  # noqa: PLC0415
        from dragoman.server.admin.explaining import explain_operations  # noqa: PLC0415
        from dragoman.server.admin.organization import ModelLimits, Organization  # noqa: PLC0415
        from dragoman.server.admin.site import AdminApi  # noqa: PLC0415

        config, routes = self._config, self._routes

        def models() -> Sequence[ModelLimits]:
            return [
                ModelLimits(
                    alias=alias,
                    display_name=routes.resolve(alias).display_name,
                    limits=config.models[alias].limits,
                )
                for alias in routes.aliases
            ]

        operations = admin_operations(
            self._get_store,
            organization=Organization(id=self._organization_id, name=config.admin.organization),
            models=models,
            workspace_limits=lambda: config.limits.workspace,
            more=explain_operations(self._explainer, max_body_bytes=config.server.max_body_bytes),
        )
        return AdminApi(operations, self._access, log=self._log)
