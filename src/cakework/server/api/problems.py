"""Errors as ``application/problem+json`` (RFC 9457). Which error gets which status is here."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.models import Schema
from fastapi.responses import Response
from fastapi.routing import iter_route_contexts
from pydantic import Field
from pydantic.json_schema import SkipJsonSchema, models_json_schema
from starlette.exceptions import HTTPException
from starlette.routing import Match

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    HandlerFailed,
    HandlerTimeout,
    InvalidRequest,
    NoRoom,
    NotFound,
    PreconditionFailed,
    QuotaExceeded,
    SignatureInvalid,
    TooLarge,
    TooSlow,
    Unauthenticated,
    Unavailable,
)
from cakework.server.api.wire import FAULTS_MAX, AnswerBody, shown_name

MEDIA_TYPE = "application/problem+json"
RETRY_AFTER_S = 5
WHAT_SHOULD = re.compile(r"^[A-Z]\w+ (?=should )")
"""What pydantic says of a value before that: "Input", "String". The field is named already."""

STATUSES: dict[type[CakeworkError], tuple[int, str]] = {
    InvalidRequest: (400, "The request is not valid"),
    Unauthenticated: (401, "A valid API key is needed"),
    SignatureInvalid: (401, "The signature is not valid"),
    NotFound: (404, "Not found"),
    Conflict: (409, "The state does not allow it"),
    PreconditionFailed: (412, "It was changed since"),
    TooLarge: (413, "Too large"),
    TooSlow: (408, "Too slow"),
    QuotaExceeded: (429, "Over the quota"),
    NoRoom: (503, "The host has no room"),
    Unavailable: (503, "Not available now"),
    HandlerFailed: (502, "The function failed"),
    HandlerTimeout: (504, "The function took too long"),
    CakeworkError: (500, "Something went wrong on our side"),
}


BODY_ERRORS: tuple[type[CakeworkError], ...] = (TooLarge, TooSlow, NoRoom)
"""With which any call may end that takes a body."""


class ProblemField(AnswerBody):
    """One field at fault."""

    field: str = Field(description="Path of the field in the request, such as `files.0.name`.")
    message: str = Field(description="What is wrong with it.")


class Problem(AnswerBody):
    """Why a request was refused (RFC 9457)."""

    type: str = Field(description="URI of the kind of problem: `urn:cakework:problem:<code>`.")
    title: str = Field(description="The kind of problem, for people.")
    status: int = Field(description="The HTTP status.")
    detail: str = Field(description="What went wrong this time, for people.")
    code: str = Field(description="The kind of problem, for programs. It does not change.")
    request_id: str = Field(description="Id of the request, as in the X-Request-Id header.")
    errors: list[ProblemField] | SkipJsonSchema[None] = Field(
        default=None, description="The fields at fault, where fields are."
    )


_REF = "#/components/schemas/{model}"
_CONTENT = {MEDIA_TYPE: {"schema": {"$ref": _REF.format(model=Problem.__name__)}}}


def schemas() -> dict[str, Any]:
    """Return the schemas, for OpenAPI, that :func:`responses` refers to, by their names."""
    _, made = models_json_schema([(Problem, "serialization")], ref_template=_REF)
    return {
        name: Schema(**schema).model_dump(mode="json", by_alias=True, exclude_none=True)
        for name, schema in made["$defs"].items()
    }


def responses(*errors: type[CakeworkError]) -> dict[int | str, dict[str, Any]]:
    """Return the declaration, for OpenAPI, of the errors that a call answers with.

    They refer to the schema: of a model FastAPI would make a validator for each of them.
    """
    declared: dict[int | str, dict[str, Any]] = {}
    for error in dict.fromkeys(errors):
        status, title = STATUSES[error]
        known = declared.get(status)
        description = f"{known['description']}; or: {title}" if known else title
        declared[status] = {"description": description, "content": _CONTENT}
    return declared


def problem(request: Request, error: Exception) -> Response:
    """Return the answer to a request that ended with ``error``."""
    if isinstance(error, RequestValidationError):
        # /v1/vm/start also looks like /v1/vm/{vmId}, where it is no id.
        if _declared(request) and any(each["loc"][0] == "path" for each in error.errors()):
            return _method_not_allowed(request)
        return _answer(request, _from_validation(error.errors()))
    if isinstance(error, HTTPException):
        return _from_http(request, error)
    return _answer(request, error if isinstance(error, CakeworkError) else CakeworkError(""))


def install(app: FastAPI) -> None:
    """Have ``app`` answer every error with a problem."""

    async def handle(request: Request, error: Exception) -> Response:
        return problem(request, error)

    for error in (CakeworkError, RequestValidationError, HTTPException):
        app.add_exception_handler(error, handle)


def check_method(request: Request) -> None:
    """Raise HTTPException 405 if its path is that of a call, but not with this method: the route
    that was found takes the last part of it for an id."""
    declared = _declared(request)
    if declared and request.method not in declared:
        raise HTTPException(405)


def _answer(request: Request, error: CakeworkError) -> Response:
    status, title = _status(error)
    headers: dict[str, str] = {}
    if status in (429, 503):
        headers["Retry-After"] = str(error.retry_after_s or RETRY_AFTER_S)
    if isinstance(error, PreconditionFailed) and error.etag is not None:
        headers["ETag"] = error.etag
    # What went wrong inside is for our log, not for whoever asked.
    detail = "The error was recorded under the request's id." if status == 500 else error.detail
    fields = error.fields if isinstance(error, InvalidRequest) else ()
    return _render(request, status, title, error.code, detail, fields, headers)


def _from_http(request: Request, error: HTTPException) -> Response:
    match error.status_code:
        case 404:
            return _answer(request, NotFound("There is nothing at this address."))
        case 405:
            return _method_not_allowed(request)
        case 413:
            return _answer(request, TooLarge(error.detail))
        case status if 400 <= status < 500:
            return _answer(request, InvalidRequest("The body could not be read."))
        case _:
            return _answer(request, CakeworkError(str(error.detail)))


def _method_not_allowed(request: Request) -> Response:
    title, code = "Method not allowed", "method_not_allowed"
    detail = f"This address does not take {request.method}."
    headers = {"Allow": ", ".join(sorted(_declared(request) or _matching(request)))}
    return _render(request, 405, title, code, detail, (), headers)


def _declared(request: Request) -> set[str]:
    """Return the methods of the call with exactly this path; none when there is no such call."""
    methods: set[str] = set()
    for context in iter_route_contexts(request.app.routes):
        if context.path == request.url.path:
            methods |= context.methods or set()
    return methods


def _matching(request: Request) -> set[str]:
    methods: set[str] = set()
    for route in request.app.routes:
        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            scope = {**request.scope, "method": method}
            if route.matches(scope)[0] is Match.FULL:
                methods.add(method)
    return methods


def _render(
    request: Request,
    status: int,
    title: str,
    code: str,
    detail: str,
    fields: Sequence[FieldError],
    headers: Mapping[str, str],
) -> Response:
    body = Problem(
        type=f"urn:cakework:problem:{code}",
        title=title,
        status=status,
        detail=detail,
        code=code,
        request_id=request.state.request_id,
        errors=[
            ProblemField(field=each.field, message=each.message) for each in fields[:FAULTS_MAX]
        ]
        or None,
    )
    content = body.model_dump_json(exclude_none=True)
    return Response(content, status, dict(headers), media_type=MEDIA_TYPE)


def _status(error: CakeworkError) -> tuple[int, str]:
    return next(STATUSES[kind] for kind in type(error).__mro__ if kind in STATUSES)


def _from_validation(errors: Sequence[Mapping[str, Any]]) -> CakeworkError:
    if any(error["loc"][0] == "path" for error in errors):
        return NotFound("There is nothing with this id.")
    return not_valid([_field(error) for error in _causes(errors)[:FAULTS_MAX]])


def _causes(errors: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Leave out lists that are said to be too short because of what is wrong with their entries."""
    entries = {tuple(error["loc"][:-1]) for error in errors}
    return [
        error
        for error in errors
        if error["type"] != "too_short" or tuple(error["loc"]) not in entries
    ]


def not_valid(fields: Sequence[FieldError]) -> InvalidRequest:
    """Return the error of a request with these faults: its detail names the first of them."""
    faults = "; ".join(f"{each.field} {each.message}" for each in fields[:3])
    end = "" if faults.endswith("?") else "."
    return InvalidRequest(f"The request is not valid: {faults}{end}", fields)


def _field(error: Mapping[str, Any]) -> FieldError:
    if error["type"] == "json_invalid":
        return FieldError("body", f"is not JSON: {error['ctx']['error']}")
    place = [shown_name(str(part)) for part in error["loc"][1:]]
    message = str(error["msg"]).removeprefix("Value error, ")
    message = "is required" if message == "Field required" else WHAT_SHOULD.sub("", message)
    return FieldError(".".join(place) or "body", message)
