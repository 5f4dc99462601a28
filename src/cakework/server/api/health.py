"""Whether the server is up, and whether what it needs is: /healthz and /readyz. No key."""

from dataclasses import dataclass

import structlog
from fastapi import APIRouter
from pydantic import Field
from sqlalchemy.exc import SQLAlchemyError

from cakework.domain.errors import CakeworkError, InvalidRequest, Unavailable
from cakework.server.api.known import KnownRoute
from cakework.server.api.problems import responses
from cakework.server.api.wire import AnswerBody
from cakework.server.node.client import NodeClient
from cakework.server.store.database import Database

_log = structlog.stdlib.get_logger(__name__)


class Health(AnswerBody):
    """The server is up."""

    status: str = Field(default="ok", description="`ok`.")


class Readiness(AnswerBody):
    """Everything that is needed answers."""

    status: str = Field(default="ready", description="`ready`.")
    store: str = Field(default="ok", description="The database: `ok`.")
    node: str = Field(default="ok", description="The node: `ok`.")


@dataclass(frozen=True, slots=True)
class HealthRoutes:
    """The two questions a supervisor asks."""

    database: Database
    node: NodeClient

    def router(self) -> APIRouter:
        """Return the calls."""
        router = APIRouter(tags=["Health"], route_class=KnownRoute)
        router.add_api_route(
            "/healthz",
            self.healthz,
            methods=["GET"],
            operation_id="healthz",
            summary="Whether the server is up",
            responses=responses(InvalidRequest, CakeworkError),
        )
        router.add_api_route(
            "/readyz",
            self.readyz,
            methods=["GET"],
            operation_id="readyz",
            summary="Whether store and node answer",
            responses=responses(InvalidRequest, Unavailable, CakeworkError),
        )
        return router

    async def healthz(self) -> Health:
        """Answer that the server is up."""
        return Health()

    async def readyz(self) -> Readiness:
        """Answer whether VMs can be started: the store and the node answer."""
        try:
            await self.database.ping()
        except (SQLAlchemyError, OSError) as error:
            _log.exception("store.unavailable")
            raise Unavailable("The store does not answer.") from error
        health = await self.node.health()
        if not health.ready:
            raise Unavailable(f"The node is not ready: {health.detail}")
        return Readiness()
