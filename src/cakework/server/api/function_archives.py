"""The call by which archives were deployed before there were functions with a name."""

import secrets
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import Field

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.functions import Runtime
from cakework.domain.ids import BUILD_ID_PATTERN, FUNCTION_ID_PATTERN
from cakework.server.api.account_route import Account, Archive, Door, Token
from cakework.server.api.forms import ARCHIVE
from cakework.server.api.functions import RUNTIMES, form_schema
from cakework.server.api.problems import BODY_ERRORS, not_valid, responses
from cakework.server.api.wire import AnswerBody, RequestBody, Text
from cakework.server.functions.functions import Functions, NewFunction, NewVersion
from cakework.server.functions.intake import Archive as ArchiveGiven
from cakework.server.functions.intake import Intake

PLATFORM = "linux/amd64"
_PLATFORMS = frozenset({"", "linux", PLATFORM, "amd64", "x86_64"})
REST = "rest"


class DeployArchive(RequestBody):
    """What deployFunctionFromArchive takes, beside the part `archive`: a tar.gz of the code."""

    runtime: Text = Field(description="`python`, `node`, or one of their versions, as node24.")
    platform: Text = Field(default="", description="linux/amd64, which is all there is.")
    handler_file: Text = Field(max_length=512, description="The file that has the handler.")
    handler_function: Text = Field(
        max_length=256, description="The handler: it takes a request, and returns the response."
    )


class DeployedArchive(AnswerBody):
    """A function that is being deployed."""

    id: str = Field(description="Id of the function.", pattern=FUNCTION_ID_PATTERN)
    endpoint: str = Field(description="Where it answers once it is deployed.")
    build_id: str = Field(description="Id of the build, which has a log.", pattern=BUILD_ID_PATTERN)


@dataclass(frozen=True, slots=True)
class FunctionArchiveRoutes:
    """The call about archives. ``proxy_port`` is where functions' URLs are served."""

    functions: Functions
    intake: Intake
    proxy_port: int

    def router(self, door: Door) -> APIRouter:
        """Return the call, entered through ``door``."""
        router = APIRouter(tags=["Functions"], route_class=door.route_class())
        errors = (Unauthenticated, InvalidRequest, CakeworkError, Conflict, QuotaExceeded)
        router.add_api_route(
            "/v1/function/deploy/archive",
            self.deploy,
            methods=["POST"],
            operation_id="deployFunctionFromArchive",
            summary="Make a function of an archive, with handlers as they were",
            route_class_override=door.route_class(with_files=True, form_flags=()),
            openapi_extra=form_schema(DeployArchive),
            response_model_exclude_none=True,
            responses=responses(*errors, *BODY_ERRORS),
        )
        return router

    async def deploy(
        self, account: Account, token: Token, archive: Archive, body: DeployArchive
    ) -> DeployedArchive:
        """Make a function, and its first version of an archive."""
        if archive is None:
            raise not_valid([FieldError(ARCHIVE, "is required: a form's part, a tar.gz")])
        if body.platform.lower() not in _PLATFORMS:
            raise not_valid([FieldError("platform", f"should be {PLATFORM}")])
        runtime = _runtime(body.runtime)
        taken = await self.intake.take(account, None, runtime, ArchiveGiven(archive))
        entry = f"{body.handler_file.removeprefix('./')}:{body.handler_function}"
        version = NewVersion(taken.source, entry, REST)
        new = NewFunction(f"archive-{secrets.token_hex(8)}", runtime)
        row, made = await self.functions.create_deployed(account, new, version, token)
        endpoint = f"http://{row.hostname}:{self.proxy_port}/"
        return DeployedArchive(id=row.id, endpoint=endpoint, build_id=made.build_id)


def _runtime(name: str) -> Runtime:
    said = name.lower()
    for known, runtime in RUNTIMES.items():
        # As `python3.11` is called elsewhere, too: python311, nodejs24.
        if said.replace("nodejs", "node") in (known, known.replace(".", "")):
            return runtime
    raise not_valid([FieldError("runtime", f"should be one of {', '.join(RUNTIMES)}")])
