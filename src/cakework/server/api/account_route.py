"""The way into every call: whose key, whether there is room, how large a body, done once for an
Idempotency-Key.

In this order, so that a stranger without a key gets nothing read, and before the body is
looked into.
"""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Collection, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Annotated, Any

from fastapi import Depends, Header, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import Response
from fastapi.routing import APIRoute
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException
from starlette.types import Message, Receive, Scope, Send

from cakework.domain.errors import CakeworkError, InvalidRequest, QuotaExceeded
from cakework.domain.ids import AccountId
from cakework.server.api.bodies import Bodies
from cakework.server.api.costs import Costs
from cakework.server.api.forms import is_form, read_form
from cakework.server.api.known import Known
from cakework.server.api.parsing import LARGE_BYTES, VALUES_MAX, Parser
from cakework.server.api.problems import check_method, problem
from cakework.server.services.idempotency import KEY_CHARS_MAX, Answer, Attempt, Idempotency
from cakework.server.services.keys import Keys
from cakework.server.store.free_space import FreeSpace
from cakework.turns import Turns

_KEY_HEADER = "X-Api-Key"
_Handler = Callable[[Request], Coroutine[Any, Any, Response]]


_JSON = b"application/json"
FORM_COST = 4
"""Bytes of memory for each of a form's: the body, the archive in it, and what comes of that."""
BODY_BYTES_MAX = 2 << 20
"""Of a body, where no files come with it."""
BODIED = ("POST", "PATCH", "PUT")
MAKING = frozenset({"POST", "PUT"})
GOES_ON = frozenset(
    {"getBuildByPost", "cancelBuild", "stopVM", "stopCachedVM", "destroyVM", "destroyCachedVM"}
    | {"cancelInvocation", "discardDeadLetters", "promoteVersion", "previewSchedule"}
    | {"testFilter"}
)
"""Calls by POST that go on when the disk is nearly full: they make nothing, or, as a rollback may,
what has been there before."""


@dataclass(frozen=True, slots=True)
class Door:
    """What stands before every call."""

    keys: Keys
    idempotency: Idempotency
    space: FreeSpace
    bodies: Bodies
    parser: Parser
    costs: Costs
    under_way: Turns[AccountId]
    files_bytes_max: int

    def route_class(
        self,
        *,
        with_files: bool = False,
        form_flags: Collection[str] | None = None,
        raw_bytes_max: int | None = None,
    ) -> type[APIRoute]:
        """Return a route class whose routes are entered through this door.

        With ``form_flags`` their bodies may be forms, too; these fields of them are true or false.
        With ``raw_bytes_max`` they are of any type and up to so large, and the call reads them
        itself: ``request.body()`` is there, and ``request.json()`` reads it with bounds.
        """
        door = self
        bytes_max = self.files_bytes_max if with_files else BODY_BYTES_MAX
        raw = raw_bytes_max is not None
        bytes_max = min(raw_bytes_max if raw else bytes_max, self.files_bytes_max)

        class AccountRoute(APIRoute):
            def get_route_handler(self) -> _Handler:
                inner, known = super().get_route_handler(), Known.of(self)
                makes = bool(MAKING & set(self.methods or ())) and self.operation_id not in GOES_ON

                async def enter(request: Request) -> Response:
                    return await door.enter(
                        *(request, inner, known, bytes_max),
                        makes=makes,
                        form_flags=form_flags,
                        raw=raw,
                    )

                return enter

        return AccountRoute

    def streamed_route_class(self) -> type[APIRoute]:
        """Return a route class whose routes read their bodies themselves, while they answer.

        Their requests are under way until the answer is given. An Idempotency-Key is not looked at.
        """
        door = self

        class StreamedRoute(APIRoute):
            def get_route_handler(self) -> _Handler:
                inner, known = super().get_route_handler(), Known.of(self)

                async def enter(request: Request) -> Response:
                    return await door.enter_streamed(request, inner, known)

                return enter

        return StreamedRoute

    async def enter_streamed(self, request: Request, inner: _Handler, known: Known) -> Response:
        """Serve one request of an account whose body is not read yet.

        Raises:
            Unauthenticated, NoRoom, QuotaExceeded, InvalidRequest: it is refused at the door.
        """
        account = await self.keys.verify(request.headers.get(_KEY_HEADER))
        request.state.account = account
        request.state.token = request.state.archive = None
        if not self.under_way.take(account):
            raise QuotaExceeded("The account has too many requests under way.", retry_after_s=1)
        try:
            known.check_query(request)
            self.space.check()
            response = await inner(request)
        except BaseException:
            self.under_way.give_back(account)
            raise
        return _UnderWay(response, lambda: self.under_way.give_back(account))

    async def enter(
        self,
        request: Request,
        inner: _Handler,
        known: Known,
        bytes_max: int,
        *,
        makes: bool,
        form_flags: Collection[str] | None = None,
        raw: bool = False,
    ) -> Response:
        """Serve one request of an account, with a body of at most ``bytes_max`` bytes; one that
        ``makes`` something only while there is room on the disk.

        Raises:
            Unauthenticated, TooLarge, TooSlow, NoRoom, QuotaExceeded, InvalidRequest, Conflict: it
                is refused at the door.
        """
        account = await self.keys.verify(request.headers.get(_KEY_HEADER))
        request.state.account = account
        request.state.token = request.state.archive = None
        if not self.under_way.take(account):
            raise QuotaExceeded("The account has too many requests under way.", retry_after_s=1)
        try:
            return await self._take(
                *(request, inner, known, bytes_max), makes=makes, form_flags=form_flags, raw=raw
            )
        finally:
            self.under_way.give_back(account)

    async def _take(
        self,
        request: Request,
        inner: _Handler,
        known: Known,
        bytes_max: int,
        *,
        makes: bool,
        form_flags: Collection[str] | None,
        raw: bool,
    ) -> Response:
        account: AccountId = request.state.account
        _check_names(request, known)
        if request.method not in BODIED:
            return await inner(request)
        if makes:
            self.space.check()
        with self.bodies.one(account) as room:
            body = await room.read(request, bytes_max)
            async with AsyncExitStack() as stack:
                kind = request.headers.get("content-type", "")
                if form_flags is not None and is_form(kind):
                    await stack.enter_async_context(self.costs.hold(account, FORM_COST * len(body)))
                    form = await asyncio.to_thread(read_form, kind, body, form_flags)
                    whole = _Read(request, json.dumps(form.fields).encode(), self.parser, _JSON)
                    request.state.archive = form.archive
                    # Who sends a form again has other boundaries in it.
                    said = json.dumps(form.fields, sort_keys=True).encode()
                    said += b"\0" + (form.archive or b"")
                    return await self._serve(account, whole, said, inner)
                if len(body) > LARGE_BYTES:
                    cost = room.reckoning.cost(VALUES_MAX)
                    await stack.enter_async_context(self.costs.hold(account, cost))
                whole = _Read(request, body, self.parser)
                if raw:
                    # Its headers say what it is.
                    return await self._serve(account, whole, _headed(request) + body, inner)
                await known.check_body(whole, body)
                return await self._serve(account, whole, body, inner)

    async def _serve(
        self, account: AccountId, request: Request, body: bytes, inner: _Handler
    ) -> Response:
        key = request.headers.get("Idempotency-Key")
        if key is None or request.method != "POST":
            return await inner(request)
        attempt = Attempt(account, key, await asyncio.to_thread(_fingerprint, request, body))
        answer = await self.idempotency.once(attempt, _work(request, inner))
        return Response(answer.body, answer.status, media_type=answer.content_type)


class _UnderWay(Response):
    """An answer; ``over`` is called when it has been given."""

    def __init__(self, response: Response, over: Callable[[], None]) -> None:
        super().__init__()
        self._response = response
        self._over = over

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._response(scope, receive, send)
        finally:
            self._over()


def _check_names(request: Request, known: Known) -> None:
    try:
        known.check_query(request)
        if request.method not in BODIED:
            known.check_unread(request)
    except InvalidRequest:
        check_method(request)
        raise


class _Read(Request):
    """A request whose body is here already; its JSON is read with bounds, and once."""

    def __init__(
        self, request: Request, body: bytes, parser: Parser, content_type: bytes | None = None
    ) -> None:
        scope = request.scope
        if content_type is not None:
            others = [each for each in scope["headers"] if each[0] != b"content-type"]
            scope = {**scope, "headers": [*others, (b"content-type", content_type)]}
        super().__init__(scope, _replay(body, request.receive))
        self._parser = parser

    async def json(self) -> Any:
        if not hasattr(self, "_json"):
            self._json = await self._parser.parsed(await self.body(), self.state.account)
        return self._json


def _work(request: Request, inner: _Handler) -> Callable[[str], Awaitable[Answer]]:
    async def work(token: str) -> Answer:
        request.state.token = token
        try:
            response = await inner(request)
        except (CakeworkError, RequestValidationError, HTTPException) as error:
            response = problem(request, error)
            if response.status_code >= 429:
                raise
        return Answer(response.status_code, response.headers["content-type"], bytes(response.body))

    return work


def _headed(request: Request) -> bytes:
    """Return what of a request's headers is a part of what it says."""
    said = (
        name + b":" + value + b"\n"
        for name, value in sorted(request.headers.raw)
        if name == b"content-type" or name.startswith(b"ce-")
    )
    return b"".join(said) + b"\0"


def _replay(
    body: bytes, receive: Callable[[], Awaitable[Message]]
) -> Callable[[], Awaitable[Message]]:
    """Return a ``receive`` that gives the body, already read, and then goes on as before."""
    given = False

    async def replay() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


def _fingerprint(request: Request, body: bytes) -> bytes:
    digest = hashlib.sha256()
    for part in (request.method, request.url.path, request.url.query):
        digest.update(part.encode() + b"\0")
    digest.update(body)
    return digest.digest()


_key_scheme = APIKeyHeader(
    name=_KEY_HEADER,
    scheme_name="ApiKey",
    description="An API key (`cw_…`), made with `cakework keys create`.",
    auto_error=False,
)


def _account(request: Request, _key: Annotated[str | None, Security(_key_scheme)]) -> AccountId:
    return request.state.account


def _archive(request: Request) -> bytes | None:
    return request.state.archive


def _token(
    request: Request,
    _key: Annotated[
        str | None,
        Header(
            alias="Idempotency-Key",
            max_length=KEY_CHARS_MAX,
            description="The same key with the same request does its work once and is answered "
            "alike for 24 hours; with another request it is refused (409).",
        ),
    ] = None,
) -> str | None:
    return request.state.token


Account = Annotated[AccountId, Depends(_account)]
"""The account whose key came with the request."""

Archive = Annotated[bytes | None, Depends(_archive)]
"""The archive that came with a form; None where none did."""

Token = Annotated[str | None, Depends(_token)]
"""The name of an idempotent request; None without an Idempotency-Key."""
