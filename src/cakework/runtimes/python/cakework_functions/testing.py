"""Calling handlers in unit tests, without a server and without a microVM.

A handler is called as the runtime calls it: with as many arguments as it takes, in a thread of
its own if it is not asynchronous, its answer held to what a result may be.
"""

import asyncio
import contextvars
import inspect
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, cast

from cakework_functions.calling import called, encoded
from cakework_functions.context import Context, Event, Later
from cakework_functions.http import Request, Response


def make_event(data: Any = None, type: str = "test", **attributes: Any) -> Event:  # noqa: A002
    """Return an event with ``data``."""
    event = {"id": "evt_test", "type": type, "source": "test", "specversion": "1.0", "data": data}
    return cast("Event", {**event, **attributes})


def call(handler: Callable[..., Any], event: Any = None, **context: Any) -> Any:
    """Return what ``handler`` answers to ``event``, once what it left to ``wait_until`` is done.

    Args:
        handler: ``handler``, ``event``, ``scheduled``, ``failed``, ``transform`` …
        event: An event as ``make_event`` makes it, or the record of a transform.
        context: Fields of ``Context``.

    Raises:
        ResultTooLarge, BadAnswer: the answer can be no result.
        Exception: whatever the handler raises.
    """

    async def run(told: Context) -> Any:
        answer = await called(handler, event, told)
        encoded(answer)
        return answer

    return asyncio.run(_with_context(run, context))


def fetch(handler: Callable[..., Any], request: Request, **context: Any) -> Response:
    """Return what ``http`` answers to ``request``, with the body as bytes.

    ASGI and WSGI applications have test clients of their frameworks.
    """

    async def run(told: Context) -> Response:
        request.context = told
        response = Response.of(await called(handler, request, told))
        response.body = await _whole(response.body)
        return response

    return asyncio.run(_with_context(run, context))


async def _with_context(run: Callable[[Context], Any], fields: dict[str, Any]) -> Any:
    waiting: list[asyncio.Future[Any]] = []
    loop = asyncio.get_running_loop()

    def later(work: Later) -> None:
        if inspect.isawaitable(work):
            loop.call_soon_threadsafe(lambda: waiting.append(asyncio.ensure_future(work)))
        elif isinstance(work, Future):
            future = cast("Future[Any]", work)
            loop.call_soon_threadsafe(lambda: waiting.append(asyncio.wrap_future(future)))
        else:
            plain = contextvars.copy_context().run
            loop.call_soon_threadsafe(
                lambda: waiting.append(loop.run_in_executor(None, plain, work))
            )

    told = replace(Context(invocation_id="inv_test"), **{"later": later, **fields})
    answer = await run(told)
    await asyncio.sleep(0)
    while waiting:
        await waiting.pop()
    return answer


async def _whole(body: Any) -> bytes:
    if body is None or isinstance(body, bytes):
        return body or b""
    parts = [part async for part in body] if hasattr(body, "__aiter__") else list(body)
    return b"".join(part.encode() if isinstance(part, str) else part for part in parts)
