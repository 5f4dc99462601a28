"""Calls about builds: buildImageFromFiles, getBuild."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Literal

from fastapi import APIRouter, Path
from pydantic import FailFast, Field
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.builds import BuildStatus
from cakework.domain.contexts import PathError, check_name, collisions, directory_path, file_path
from cakework.domain.dockerfiles import DockerfileError, parse_dockerfile
from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.ids import BUILD_ID_PATTERN, IMAGE_ID_PATTERN, BuildId
from cakework.domain.orders import ContextFile, FilesSource
from cakework.server.api import base64_texts
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import FAULTS_MAX, AnswerBody, RequestBody, Text
from cakework.server.services.builds import Builds, NewBuild
from cakework.server.store.models import BuildRow

FILES_MAX = 20_000
BuildIdPath = Annotated[
    str, Path(alias="buildId", pattern=BUILD_ID_PATTERN, description="Id of the build.")
]


class File(RequestBody):
    """One file of a build context."""

    dir: Text = Field(description="Folder of the file, relative to the root; `.` for the root.")
    name: Text = Field(description="Name of the file, without slashes.")
    content: Text = Field(description="What is in the file.", repr=False)
    encoding: Literal["base64"] | None = Field(
        default=None, description="`base64` when `content` is base64; plain text if absent."
    )


class BuildFromFiles(RequestBody):
    """What buildImageFromFiles takes."""

    dockerfile: Text = Field(description="The Dockerfile, as text.")
    files: Annotated[list[File], FailFast(), Field(max_length=FILES_MAX)] = Field(
        description="The files of the build context."
    )


class Build(AnswerBody):
    """A build."""

    build_id: str = Field(description="Id of the build: a UUID.", pattern=BUILD_ID_PATTERN)
    image_id: Annotated[str, Field(pattern=IMAGE_ID_PATTERN)] | SkipJsonSchema[None] = Field(
        default=None, description="The image; absent until the build has succeeded."
    )
    status: BuildStatus = Field(description="created: being built; succeeded; failed.")
    error: str | SkipJsonSchema[None] = Field(
        default=None, description="Why it failed; absent unless it has."
    )
    created_at: str = Field(
        description="When it was asked for.", json_schema_extra={"format": "date-time"}
    )
    updated_at: str = Field(
        description="When it last changed.", json_schema_extra={"format": "date-time"}
    )


@dataclass(frozen=True, slots=True)
class BuildRoutes:
    """The calls about builds."""

    builds: Builds

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Builds"], route_class=door.route_class())
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        router.add_api_route(
            "/v1/image/build/files",
            self.create,
            methods=["POST"],
            route_class_override=door.route_class(with_files=True),
            operation_id="buildImageFromFiles",
            summary="Build an image from a Dockerfile and files",
            response_model_exclude_none=True,
            responses=responses(*always, Conflict, *BODY_ERRORS, QuotaExceeded),
        )
        router.add_api_route(
            "/v1/image/build/{buildId}",
            self.get,
            methods=["GET"],
            operation_id="getBuild",
            summary="Look at a build",
            response_model_exclude_none=True,
            responses=responses(*always, NotFound),
        )
        router.add_api_route(
            "/v1/image/build/{buildId}",
            self.get_by_post,
            methods=["POST"],
            operation_id="getBuildByPost",
            summary="Look at a build (POST, as published clients do)",
            response_model_exclude_none=True,
            responses=responses(*always, NotFound, Conflict, *BODY_ERRORS),
        )
        return router

    async def create(self, account: Account, token: Token, body: BuildFromFiles) -> Build:
        """Take a build and answer at once; it goes on in the background."""
        new = await asyncio.to_thread(new_build, body)
        return build_answer(await self.builds.create(account, new, token))

    async def get(self, account: Account, build_id: BuildIdPath) -> Build:
        """Look at a build."""
        return build_answer(await self.builds.get(account, BuildId(build_id)))

    async def get_by_post(self, account: Account, _token: Token, build_id: BuildIdPath) -> Build:
        """Look at a build."""
        return build_answer(await self.builds.get(account, BuildId(build_id)))


def new_build(body: BuildFromFiles) -> NewBuild:
    """Return the build that a body asks for, looked through to the last file.

    Raises:
        InvalidRequest: naming the fields at fault, or as many of them as are told.
    """
    faults = dockerfile_faults(body.dockerfile)
    files: list[ContextFile] = []
    for index, file in enumerate(body.files):
        if len(faults) >= FAULTS_MAX:
            break
        checked = _check_file(index, file)
        if isinstance(checked, ContextFile):
            files.append(checked)
        else:
            faults += checked
    if len(files) == len(body.files):
        paths = [file.path for file in files]
        colliding = islice(collisions(paths), FAULTS_MAX)
        faults += [FieldError(f"files.{i}.name", fault) for i, fault in colliding]
    refuse(faults)
    return NewBuild(body.dockerfile, FilesSource(files=files))


def dockerfile_faults(dockerfile: str) -> list[FieldError]:
    """Return what is wrong with a Dockerfile; nothing if it parses."""
    try:
        parse_dockerfile(dockerfile)
    except DockerfileError as error:
        return [FieldError("dockerfile", f"does not parse: {error}")]
    return []


def refuse(faults: Sequence[FieldError]) -> None:
    """Raise InvalidRequest with ``faults``, if there are any."""
    if faults:
        shown = "; ".join(f"{fault.field} {fault.message}" for fault in faults[:3])
        raise InvalidRequest(f"The build cannot be taken: {shown}.", faults)


def _check_file(index: int, file: File) -> ContextFile | Sequence[FieldError]:
    faults: list[FieldError] = []
    for field, check, value in (
        ("dir", directory_path, file.dir),
        ("name", check_name, file.name),
    ):
        try:
            check(value)
        except PathError as error:
            faults.append(FieldError(f"files.{index}.{field}", str(error)))
    content = ""
    try:
        # What is refused anyway is not encoded.
        content = "" if faults and file.encoding is None else _content_base64(file)
    except ValueError:
        faults.append(FieldError(f"files.{index}.content", "is not base64"))
    if faults:
        return faults
    try:
        return ContextFile(path=file_path(file.dir, file.name), content_base64=content)
    except PathError as error:
        return [FieldError(f"files.{index}.name", str(error))]


def _content_base64(file: File) -> str:
    if file.encoding is None:
        return base64_texts.encoded(file.content)
    base64_texts.check(file.content)
    return file.content


def build_answer(row: BuildRow) -> Build:
    """Return a build as the API shows it."""
    succeeded = row.status == BuildStatus.SUCCEEDED
    return Build(
        build_id=row.id,
        image_id=row.image_id if succeeded else None,
        status=BuildStatus(row.status),
        error=row.error,
        created_at=rfc3339(row.created_ms),
        updated_at=rfc3339(row.updated_ms),
    )
