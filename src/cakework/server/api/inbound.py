"""Where webhooks come in, ``POST /in/<door>``: for those who sign what they send, without a key.

It is no call of the API: no contract holds for what providers send, so names in the query are
passed over, and so are headers. In this order, so that a stranger gets nothing read at another's
cost: the door, a turn of it, the body, its signature; then what it says.
"""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import Field

from cakework.domain.errors import HandlerFailed, HandlerTimeout, InvalidRequest
from cakework.domain.ids import InvocationId
from cakework.domain.invocations import InvocationState, Reason
from cakework.server.api.bodies import Bodies, Body
from cakework.server.api.costs import Costs
from cakework.server.api.parsing import LARGE_BYTES, VALUES_MAX, Parser
from cakework.server.api.request_scope import INBOUND
from cakework.server.api.wire import AnswerBody
from cakework.server.automations.data import Data, is_json, of_bytes, of_json
from cakework.server.automations.inbound import Inbound, Webhook
from cakework.server.functions.invocations import Found
from cakework.server.store.free_space import FreeSpace

BODY_BYTES_MAX = 1 << 20
BODIES_BYTES_MAX = 64 << 20
"""Of all that come in at once, half of them of one account: apart from the API's own bodies."""
_INVOCATION = "cakework-invocation-id"
_ENDED_BADLY = (InvocationState.FAILED, InvocationState.EXPIRED)


class Accepted(AnswerBody):
    """What who sent a delivery is answered."""

    accepted: bool = True
    matched: bool = Field(description="Whether the trigger's filter takes it.")
    duplicate: bool = Field(description="Whether it came before, and was done then.")
    invocation_id: str | None = Field(default=None, description="What it led to.")


@dataclass(frozen=True, slots=True)
class InboundRoutes:
    """Takes what providers send."""

    inbound: Inbound
    space: FreeSpace
    bodies: Bodies
    parser: Parser
    costs: Costs

    def router(self) -> APIRouter:
        """Return the one route."""
        router = APIRouter(include_in_schema=False)
        router.add_api_route(f"{INBOUND}{{door}}", self.arrive, methods=["POST"])
        return router

    async def arrive(self, request: Request, door: str) -> Response:
        """Take a delivery: once for each that a provider makes, however often it is sent."""
        caller = request.client.host if request.client else ""
        webhook = await self.inbound.find(door, caller)
        request.state.account = webhook.account
        self.space.check()
        async with self.inbound.turn(webhook):
            answer = await self._taken(request, webhook)
        if isinstance(answer, Response):
            return answer
        found = await self.inbound.result(webhook, answer)
        if found is None:
            return _accepted(answer)
        is_large = len(found.result or b"") > LARGE_BYTES
        return await asyncio.to_thread(_result, found) if is_large else _result(found)

    async def _taken(self, request: Request, webhook: Webhook) -> Response | InvocationId:
        """Return the answer, or the invocation that it is to be the result of."""
        headers = _headers(request)
        with self.bodies.one(webhook.account) as room:
            body = await room.read(request, BODY_BYTES_MAX)
            await self.inbound.check(webhook, headers, body)
            async with self._cost(webhook, room):
                data = await self._data(webhook, headers.get("content-type", ""), body)
                said = self.inbound.told(webhook, headers, data)
                if said.challenge is not None:
                    return JSONResponse({"challenge": said.challenge})
                taken = await self.inbound.take(webhook, said, headers, data, body)
        if taken.invocation_id is None or taken.duplicate:
            return _accepted(taken.invocation_id, duplicate=taken.duplicate)
        if webhook.config.respond == "accepted":
            return _accepted(taken.invocation_id)
        return taken.invocation_id

    @asynccontextmanager
    async def _cost(self, webhook: Webhook, room: Body) -> AsyncGenerator[None]:
        """Keep free what a large body takes when it is looked into."""
        if room.size <= LARGE_BYTES:
            yield
            return
        async with self.costs.hold(webhook.account, room.reckoning.cost(VALUES_MAX)):
            yield

    async def _data(self, webhook: Webhook, kind: str, body: bytes) -> Data:
        if not body or not is_json(kind):
            is_large = len(body) > LARGE_BYTES
            return (
                await asyncio.to_thread(of_bytes, kind, body) if is_large else of_bytes(kind, body)
            )
        try:
            return of_json(kind, await self.parser.parsed(body, webhook.account))
        except json.JSONDecodeError as error:
            raise InvalidRequest(
                f"The body is said to be JSON, and is not: {error.msg}."
            ) from error
        except (RecursionError, ValueError) as error:
            message = "The body is nested too deeply, or has a number that is too long."
            raise InvalidRequest(message) from error


def _headers(request: Request) -> dict[str, str]:
    """Return the headers by name; of one that came several times, all, as if in one line."""
    headers: dict[str, str] = {}
    for name, value in request.headers.items():
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return headers


def _accepted(invocation_id: str | None, *, duplicate: bool = False) -> Response:
    body = Accepted(
        matched=invocation_id is not None, duplicate=duplicate, invocation_id=invocation_id
    )
    headers = {} if invocation_id is None else {_INVOCATION: invocation_id}
    content = body.model_dump_json(exclude_none=True)
    return Response(content, 200 if duplicate else 202, headers, media_type="application/json")


def _result(found: Found) -> Response:
    """Return what a handler answered. Raises HandlerFailed, HandlerTimeout: it did not."""
    row = found.row
    if row.state in _ENDED_BADLY:
        error = HandlerTimeout if row.reason == Reason.TIMEOUT else HandlerFailed
        raise error(f"The function did not do it; the invocation {row.id} says why.")
    if row.state != InvocationState.SUCCEEDED:
        return _accepted(row.id)
    kept: dict[str, Any] = json.loads(found.result) if found.result is not None else {"json": None}
    if "base64" in kept:
        content = base64.b64decode(kept["base64"])
    else:
        content = json.dumps(kept["json"], ensure_ascii=False).encode()
    # What users' code answers is not to be a page of the API's own origin.
    headers = {
        _INVOCATION: row.id,
        "content-disposition": "attachment",
        "x-content-type-options": "nosniff",
    }
    return Response(content, 200, headers, media_type=row.result_type or "application/json")
