"""Calls about functions and their versions."""

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, BeforeValidator, ConfigDict, FailFast, Field, SecretStr
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.contexts import PathError, directory_path, file_path
from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.functions import (
    NAME_PATTERN,
    NEWEST,
    USER_ID_PATTERN,
    FunctionKind,
    FunctionSettings,
    Runtime,
    VersionState,
)
from cakework.domain.ids import (
    ACCOUNT_ITSELF,
    FUNCTION_ID_PATTERN,
    AccountId,
    FunctionId,
    UserId,
)
from cakework.domain.orders import GithubSource
from cakework.domain.repositories import (
    RepositoryError,
    checked_branch,
    checked_repository,
    checked_token,
)
from cakework.server.api.account_route import Account, Archive, Door, Token
from cakework.server.api.builds import File
from cakework.server.api.forms import ARCHIVE
from cakework.server.api.paging import GivenToken, Page, place_of, token_of
from cakework.server.api.problems import BODY_ERRORS, not_valid, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody, Text, given, names_of
from cakework.server.functions.functions import (
    FunctionFilter,
    Functions,
    NewFunction,
    NewVersion,
)
from cakework.server.functions.intake import Archive as ArchiveGiven
from cakework.server.functions.intake import Draft, Github, Given, Intake, OfVersion
from cakework.server.functions.sources import FILES_MAX, Source, source_of
from cakework.server.store.function_models import FunctionRow, VersionRow

FunctionIdPath = Annotated[
    str, Path(alias="functionId", pattern=FUNCTION_ID_PATTERN, description="Id of the function.")
]
VersionPath = Annotated[int, Path(alias="version", ge=1, le=2**31 - 1, description="Its number.")]
_UserId = Annotated[Text, Field(pattern=USER_ID_PATTERN)]
_Settings = Annotated[
    FunctionSettings, BeforeValidator(lambda value: given(FunctionSettings, value))
]
RUNTIMES = {**NEWEST, **{runtime.value: runtime for runtime in Runtime}}
del RUNTIMES[Runtime.IMAGE]
"""By the names that may be asked for. Nothing can be deployed to a function of an image yet."""


class GithubGiven(RequestBody):
    """Code in a branch on GitHub."""

    repository: Text = Field(description="The repository: `org/repo`.")
    branch: Text = Field(description="The branch; its newest commit is taken.")
    token: SecretStr = Field(
        default=SecretStr(""),
        description="Token that may read the repository; empty for a public one. It is not kept.",
    )
    folder: Text = Field(
        default="", max_length=4096, description="The folder that is the code's root."
    )


class SourceGiven(RequestBody):
    """Code: one of these."""

    files: Annotated[list[File], FailFast(), Field(min_length=1, max_length=FILES_MAX)] = Field(
        default_factory=list[File], description="The files of the code."
    )
    github: GithubGiven | None = Field(default=None, description="A branch on GitHub.")
    draft: Literal[True] | None = Field(default=None, description="The draft of the function.")
    version: int | None = Field(
        default=None,
        ge=1,
        le=2**31 - 1,
        description="A version of the function: its code again, with today's dependencies.",
    )


class Deploy(RequestBody):
    """What deployFunction takes; as a form, with the code as a tar.gz in the part `archive`."""

    source: SourceGiven | None = Field(
        default=None, description="The code; absent with an archive alone."
    )
    entry: Text | None = Field(
        default=None,
        max_length=1024,
        description="The file that is imported, `main.py` or `main.ts`; with `:name`, the handler.",
    )
    signature: Literal["rest"] | None = Field(
        default=None, description="`rest`: handlers take and answer as deployed ones once did."
    )
    message: Text | None = Field(
        default=None, max_length=500, description="What it is, for people."
    )
    promote: bool = Field(default=True, description="Whether it is live as soon as it is ready.")
    lock: Text | None = Field(
        default=None,
        description="A lock file, as text, in the place of the code's own: what uv.lock or "
        "package-lock.json says.",
    )


class CreateFunction(RequestBody):
    """What createFunction takes."""

    name: Text = Field(pattern=NAME_PATTERN, description="Its name, one among its owner's.")
    runtime: Text = Field(
        description="python3.13, python3.11 or node24; `python` and `node` mean the newest."
    )
    user_id: _UserId | None = Field(
        default=None, description="The end user whose it is; the account's own if absent."
    )
    kind: Annotated[FunctionKind, Field(strict=False)] = Field(
        default=FunctionKind.FUNCTION, description="function, or transform."
    )
    settings: _Settings = Field(
        default_factory=FunctionSettings, description="Its settings; what is absent is a default."
    )
    source: SourceGiven | None = Field(default=None, description="Code to deploy at once.")
    entry: Text | None = Field(default=None, max_length=1024, description="As deployFunction.")


class UpdateFunction(RequestBody):
    """What updateFunction takes."""

    settings: _Settings = Field(description="Settings to change; what is absent stays.")


class Promote(RequestBody):
    """What promoteVersion takes."""

    version: int = Field(ge=1, le=2**31 - 1, description="Number of the version to make live.")


class Function(AnswerBody):
    """A function."""

    id: str = Field(description="Id of the function.", pattern=FUNCTION_ID_PATTERN)
    name: str = Field(description="Its name.")
    user_id: str | SkipJsonSchema[None] = Field(
        default=None, description="The end user whose it is; absent for the account's own."
    )
    kind: FunctionKind = Field(description="function, or transform.")
    runtime: Runtime = Field(description="What its code is run by.")
    settings: FunctionSettings = Field(description="All settings, with their defaults.")
    state: Literal["active", "deploying", "empty"] = Field(
        description="empty: nothing is live; deploying: nothing yet, and a version is being made; "
        "active: it can be invoked."
    )
    live_version: int | SkipJsonSchema[None] = Field(
        default=None, description="The version that new work runs on."
    )
    url: str = Field(description="Where its http handler is.")
    build_id: str | SkipJsonSchema[None] = Field(
        default=None,
        description="Id of the build of the version that is being made; absent while none is.",
    )
    created_at: str = Field(
        description="When it was made.", json_schema_extra={"format": "date-time"}
    )
    updated_at: str = Field(
        description="When it last changed.", json_schema_extra={"format": "date-time"}
    )


class FunctionPage(Page):
    """A page of the list of functions."""

    functions: list[Function] = Field(description="Functions, newest first, at most 100.")


class SnapshotOfVersion(AnswerBody):
    """The snapshot that a version's instances begin from."""

    state: Literal["made", "failed", "none"] = Field(description="Whether there is one.")
    error: str | SkipJsonSchema[None] = Field(default=None, description="Why there is none.")


class Version(AnswerBody):
    """A version of a function."""

    function_id: str = Field(description="Id of the function.", pattern=FUNCTION_ID_PATTERN)
    version: int = Field(description="Its number, from 1.")
    state: VersionState = Field(description="building; ready; failed; retired.")
    build_id: str = Field(description="Id of the build of its dependencies, which has a log.")
    error: str | SkipJsonSchema[None] = Field(
        default=None, description="Why it failed: with a traceback where code raised it."
    )
    runtime: Runtime = Field(description="What runs it.")
    entry: str = Field(description="The file that is imported.")
    handlers: list[str] | SkipJsonSchema[None] = Field(
        default=None, description="What it can be triggered by; absent until it is ready."
    )
    source_digest: str = Field(description="What tells its code from other code.")
    message: str | SkipJsonSchema[None] = Field(default=None, description="What it is.")
    snapshot: SnapshotOfVersion | SkipJsonSchema[None] = Field(
        default=None,
        description="Its snapshot; absent until it is ready. Of older versions the code alone is "
        "kept, and the snapshot is made again when they are promoted.",
    )
    created_at: str = Field(
        description="When it was sent.", json_schema_extra={"format": "date-time"}
    )
    updated_at: str = Field(
        description="When it last changed.", json_schema_extra={"format": "date-time"}
    )


class VersionPage(Page):
    """A page of the list of versions."""

    versions: list[Version] = Field(description="Versions, newest first, at most 100.")


class SourceFile(AnswerBody):
    """A file of a version's code."""

    dir: str = Field(description="Its folder; `.` for the root.")
    name: str = Field(description="Its name.")
    content: str = Field(description="What is in it.")
    encoding: Literal["base64"] | SkipJsonSchema[None] = Field(
        default=None, description="`base64` when `content` is that."
    )


class SourceFiles(AnswerBody):
    """The code of a version, as it was sent."""

    files: list[SourceFile] = Field(description="Its files.")


class Deleted(AnswerBody):
    """Nothing is left to say."""


class FunctionParameters(BaseModel):
    """What listFunctions takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    user_id: str | None = Field(
        default=None, alias="userId", description="Only functions of this end user."
    )
    name: str | None = Field(default=None, description="Only functions of this name.")
    kind: FunctionKind | None = Field(default=None, description="Only functions of this kind.")
    pagination: GivenToken = None


@dataclass(frozen=True, slots=True)
class FunctionRoutes:
    """The calls about functions. ``proxy_port`` is where their URLs are served."""

    functions: Functions
    intake: Intake
    proxy_port: int

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Functions"], route_class=door.route_class())
        with_files = door.route_class(with_files=True)
        with_form = door.route_class(with_files=True, form_flags=("promote",))
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        posted = (*always, NotFound, Conflict, *BODY_ERRORS)
        one = "/v1/functions/{functionId}"
        for path, method, call, name, summary, errors in (
            ("/v1/functions", "POST", self.create, "createFunction", "Make a function", posted),
            (
                *("/v1/functions", "GET", self.list, "listFunctions"),
                *("List functions, newest first", always),
            ),
            (one, "GET", self.get, "getFunction", "Look at a function", (*always, NotFound)),
            (
                *(one, "PATCH", self.update, "updateFunction"),
                *("Change settings of a function", posted),
            ),
            (
                *(one, "DELETE", self.delete, "deleteFunction"),
                *("Delete a function with its versions", (*always, NotFound)),
            ),
            (
                *(f"{one}/versions", "POST", self.deploy, "deployFunction"),
                *("Deploy code as a new version", posted),
            ),
            (
                *(f"{one}/versions", "GET", self.list_versions, "listVersions"),
                *("List versions, newest first", (*always, NotFound)),
            ),
            (
                *(f"{one}/versions/{{version}}", "GET", self.get_version, "getVersion"),
                *("Look at a version", (*always, NotFound)),
            ),
            (
                *(f"{one}/versions/{{version}}/source", "GET", self.source, "getVersionSource"),
                *("Get the code of a version, as it was sent", (*always, NotFound)),
            ),
            (
                *(f"{one}/promote", "POST", self.promote, "promoteVersion"),
                *("Make a version live", posted),
            ),
        ):
            files = name in ("createFunction", "deployFunction", "promoteVersion")
            entered = {"createFunction": with_files, "deployFunction": with_form}
            router.add_api_route(
                path,
                call,
                methods=[method],
                operation_id=name,
                summary=summary,
                route_class_override=entered.get(name),
                openapi_extra=form_schema(Deploy) if name == "deployFunction" else None,
                response_model_exclude_none=True,
                responses=responses(*errors, *((QuotaExceeded,) if files else ())),
            )
        return router

    async def create(self, account: Account, token: Token, body: CreateFunction) -> Function:
        """Make a function; with a source, deploy it."""
        runtime = _runtime(body.runtime)
        user = UserId(body.user_id) if body.user_id else ACCOUNT_ITSELF
        taken = None
        if body.source is not None:
            given = await given_of(body.source, None)
            taken = await self.intake.take(account, None, runtime, given)
        new = NewFunction(body.name, runtime, user, body.kind, body.settings)
        if taken is None:
            row = await self.functions.create(account, new, token)
        else:
            version = NewVersion(taken.source, body.entry)
            row, _ = await self.functions.create_deployed(account, new, version, token)
        return await self._answer(account, FunctionId(row.id))

    async def list(
        self, account: Account, parameters: Annotated[FunctionParameters, Query()]
    ) -> FunctionPage:
        """List the account's functions, newest first, 100 a page."""
        user = UserId(parameters.user_id) if parameters.user_id is not None else None
        wanted = FunctionFilter(user, parameters.name, parameters.kind)
        place = place_of(parameters.pagination)
        rows, after = await self.functions.page(account, wanted, place)
        deploying = await self.functions.deploying([FunctionId(row.id) for row in rows])
        functions = [self._shown(row, deploying.get(row.id)) for row in rows]
        return FunctionPage(functions=functions, pagination=token_of(after))

    async def get(self, account: Account, function_id: FunctionIdPath) -> Function:
        """Look at a function."""
        return await self._answer(account, FunctionId(function_id))

    async def update(
        self, account: Account, function_id: FunctionIdPath, body: UpdateFunction
    ) -> Function:
        """Change settings of a function; the next attempt sees them."""
        await self.functions.change(account, FunctionId(function_id), body.settings)
        return await self._answer(account, FunctionId(function_id))

    async def delete(self, account: Account, function_id: FunctionIdPath) -> Deleted:
        """Delete a function; records of its invocations stay."""
        await self.functions.delete(account, FunctionId(function_id))
        return Deleted()

    async def deploy(
        self,
        account: Account,
        token: Token,
        archive: Archive,
        function_id: FunctionIdPath,
        body: Deploy,
    ) -> Version:
        """Take code and answer at once; the version is made in the background.

        A branch on GitHub is fetched before the answer.
        """
        row = await self.functions.get(account, FunctionId(function_id))
        given = await given_of(body.source, archive)
        taken = await self.intake.take(
            account, FunctionId(function_id), Runtime(row.runtime), given, body.lock
        )
        new = NewVersion(
            taken.source,
            body.entry or taken.entry,
            body.signature or taken.signature,
            body.message,
            body.promote,
            fresh=taken.fresh,
        )
        version = await self.functions.deploy(account, FunctionId(function_id), new, token)
        return version_answer(version)

    async def list_versions(
        self,
        account: Account,
        function_id: FunctionIdPath,
        pagination: Annotated[
            str | None,
            Query(pattern=r"^[1-9][0-9]{0,8}$", description="Token that the page before gave."),
        ] = None,
    ) -> VersionPage:
        """List the versions of a function, newest first, 100 a page."""
        before = int(pagination) if pagination else None
        rows, below = await self.functions.versions(account, FunctionId(function_id), before)
        versions = [version_answer(row) for row in rows]
        return VersionPage(versions=versions, pagination=None if below is None else str(below))

    async def get_version(
        self, account: Account, function_id: FunctionIdPath, version: VersionPath
    ) -> Version:
        """Look at a version."""
        row = await self.functions.version(account, FunctionId(function_id), version)
        return version_answer(row)

    async def source(
        self, account: Account, function_id: FunctionIdPath, version: VersionPath
    ) -> SourceFiles:
        """Get the code of a version, as it was sent, without its dependencies."""
        source = await self.functions.source(account, FunctionId(function_id), version)
        return SourceFiles(files=files_answer(source))

    async def promote(
        self, account: Account, _token: Token, function_id: FunctionIdPath, body: Promote
    ) -> Function:
        """Make a version live: newer or older; one that has to be made anew, when it is ready."""
        await self.functions.promote(account, FunctionId(function_id), body.version)
        return await self._answer(account, FunctionId(function_id))

    async def _answer(self, account: AccountId, function_id: FunctionId) -> Function:
        row = await self.functions.get(account, function_id)
        deploying = await self.functions.deploying([function_id])
        return self._shown(row, deploying.get(row.id))

    def _shown(self, row: FunctionRow, deploying: str | None) -> Function:
        state = "active" if row.live_version else "deploying" if deploying else "empty"
        return Function(
            id=row.id,
            name=row.name,
            user_id=row.user_id or None,
            kind=FunctionKind(row.kind),
            runtime=Runtime(row.runtime),
            settings=self.functions.settings(row).shown(FunctionKind(row.kind)),
            state=state,
            live_version=row.live_version,
            url=f"http://{row.hostname}:{self.proxy_port}/",
            build_id=deploying,
            created_at=rfc3339(row.created_ms),
            updated_at=rfc3339(row.updated_ms),
        )


def version_answer(row: VersionRow) -> Version:
    """Return a version as the API shows it."""
    ready = row.state == VersionState.READY
    state = "made" if row.vm_id else "failed" if row.snapshot_error else "none"
    return Version(
        function_id=row.function_id,
        version=row.number,
        state=VersionState(row.state),
        build_id=row.build_id,
        error=row.error,
        runtime=Runtime(row.runtime),
        entry=row.entry,
        handlers=row.handlers.split() if row.handlers is not None else None,
        source_digest=row.source_digest,
        message=row.message,
        snapshot=SnapshotOfVersion(state=state, error=row.snapshot_error) if ready else None,
        created_at=rfc3339(row.created_ms),
        updated_at=rfc3339(row.updated_ms),
    )


def _runtime(name: str) -> Runtime:
    if (runtime := RUNTIMES.get(name)) is None:
        raise InvalidRequest(
            "There is no such runtime.",
            [FieldError("runtime", f"should be one of {', '.join(RUNTIMES)}")],
        )
    return runtime


async def given_of(source: SourceGiven | None, archive: bytes | None) -> Given:
    """Return the code that a request gives, in whatever way it does.

    Raises:
        InvalidRequest: it gives none, or two.
    """
    ways = [] if source is None else sorted(source.model_fields_set)
    if archive is not None:
        ways.append("archive")
    if len(ways) != 1 or (source is not None and getattr(source, ways[0], True) is None):
        told = "should be one of files, github, draft, version; or a form's part archive"
        raise not_valid([FieldError("source", told)])
    if archive is not None:
        return ArchiveGiven(archive)
    if source is None:
        raise LookupError("nothing is given")
    if source.github is not None:
        return _github(source.github)
    if source.version is not None:
        return OfVersion(source.version)
    if source.draft is not None:
        return Draft()
    return await asyncio.to_thread(source_from, source.files)


def _github(given: GithubGiven) -> Github:
    faults: list[FieldError] = []
    token = given.token.get_secret_value()
    for field, check, value in (
        ("repository", checked_repository, given.repository),
        ("branch", checked_branch, given.branch),
        ("token", checked_token, token),
        ("folder", directory_path, given.folder),
    ):
        try:
            check(value)
        except (RepositoryError, PathError) as error:
            faults.append(FieldError(f"source.github.{field}", str(error)))
    if faults:
        raise not_valid(faults)
    source = GithubSource(repository=given.repository, branch=given.branch, token=token)
    return Github(source, directory_path(given.folder))


def form_schema(model: type[RequestBody]) -> dict[str, Any]:
    """Return what OpenAPI is told of a call that takes the fields of ``model`` as a form, too."""
    text = {"type": "string"}
    fields = {
        name: {"type": "boolean"} if name == "promote" else text
        for name in names_of(model)
        if name != "source"
    }
    archive = {"type": "string", "format": "binary", "description": "The code: a tar.gz."}
    schema = {
        "type": "object",
        "required": [ARCHIVE],
        "additionalProperties": False,
        "properties": {ARCHIVE: archive, **fields},
    }
    return {"requestBody": {"content": {"multipart/form-data": {"schema": schema}}}}


def source_from(given: Sequence[File]) -> Source:
    """Return the source that has these files. Blocks. Raises InvalidRequest, TooLarge."""
    files: list[tuple[str, bytes]] = []
    for index, file in enumerate(given):
        try:
            path = file_path(file.dir, file.name)
        except PathError as error:
            raise InvalidRequest(
                f"The source cannot be taken: files.{index} {error}.",
                [FieldError(f"source.files.{index}.name", str(error))],
            ) from error
        files.append((path, _content(index, file)))
    return source_of(files)


def _content(index: int, file: File) -> bytes:
    if file.encoding is None:
        return file.content.encode()
    try:
        return base64.b64decode(file.content, validate=True)
    except ValueError as error:
        raise InvalidRequest(
            f"The source cannot be taken: files.{index} is not base64.",
            [FieldError(f"source.files.{index}.content", "is not base64")],
        ) from error


def files_answer(source: Source) -> list[SourceFile]:
    """Return the files of a source as the API shows them."""
    return [_file(*each) for each in source.files.items()]


def _file(path: str, content: bytes) -> SourceFile:
    folder, _, name = path.rpartition("/")
    try:
        return SourceFile(dir=folder or ".", name=name, content=content.decode())
    except UnicodeDecodeError:
        told = base64.b64encode(content).decode()
        return SourceFile(dir=folder or ".", name=name, content=told, encoding="base64")
