"""The port on which pid 1 gives orders. ``docs/dev/runtimes.md`` is what both keep to."""

import asyncio
import contextlib
import gc
import json
import os
import platform
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any, cast

from cakework_functions.calling import called
from cakework_runtime.failure import describe, show
from cakework_runtime.fresh import reseed
from cakework_runtime.handlers import Handlers
from cakework_runtime.http1 import Exchange, Server
from cakework_runtime.invocations import Attempt, Invocations
from cakework_runtime.visitors import Visitors

PROTOCOL = 1
ORDER_MAX_BYTES = 8 * 1024 * 1024
LOAD_MAX_BYTES = 32 * 1024 * 1024
"""Of a function's files, in base64."""
CALLER = "cakework"
"""The User-Agent of pid 1, which a function that is made to fetch an address does not have."""


@dataclass(frozen=True, slots=True)
class Function:
    """What is served. ``state`` is ``empty`` before there is any, ``ready``, or ``failed`` with
    why it could not be loaded."""

    state: str
    handlers: Handlers
    failed: BaseException | None
    invocations: Invocations
    visitors: Visitors
    threads: Executor


class Control:
    """Obeys orders about ``function``; ``loaded`` returns the one that an order brings."""

    def __init__(
        self,
        function: Function,
        secrets: dict[str, str],
        loaded: Callable[[dict[str, Any]], Awaitable[Function]],
    ) -> None:
        self.function = function
        self.visitors: Server | None = None
        self._secrets = secrets
        self._loaded = loaded
        self._loading = asyncio.Lock()
        self._orders: dict[tuple[str, str], Callable[[Exchange], Awaitable[None]]] = {
            ("GET", "/ready"): self._ready,
            ("POST", "/load"): self._load,
            ("GET", "/idle"): self._idle,
            ("POST", "/invoke"): self._invoke,
            ("POST", "/abort"): self._abort,
            ("POST", "/secrets"): self._give_secrets,
            ("POST", "/before-snapshot"): self._before_snapshot,
            ("POST", "/after-resume"): self._after_resume,
        }

    async def serve(self, exchange: Exchange) -> None:
        """Obey one order."""
        exchange.keeps = False
        head = exchange.head
        order = self._orders.get((head.method, head.target))
        if head.get(b"user-agent") != CALLER:
            await _answer(exchange, 403, {"error": "orders are given by the platform"})
        elif order is None:
            await _answer(exchange, 404, {"error": "there is no such order"})
        else:
            try:
                await order(exchange)
            except (KeyError, TypeError, ValueError, RecursionError) as error:
                if not exchange.started:
                    await _answer(exchange, 400, {"error": f"{type(error).__name__}: {error}"})

    async def _ready(self, exchange: Exchange) -> None:
        told: dict[str, Any] = {
            "protocol": PROTOCOL,
            "runtime": f"python{platform.python_version()}",
            "handlers": self.function.handlers.names,
            "hooks": self.function.handlers.hooks,
            "state": self.function.state,
        }
        if self.function.failed is not None:
            told["error"] = describe(self.function.failed)
        await _answer(exchange, 200, told)

    async def _load(self, exchange: Exchange) -> None:
        order = await _order(exchange, LOAD_MAX_BYTES)
        async with self._loading:
            if self.function.state != "empty":
                await _answer(exchange, 409, {"error": "there is a function already"})
                return
            self.function = await self._loaded(order)
        await self._ready(exchange)

    async def _idle(self, exchange: Exchange) -> None:
        await self.function.invocations.until_idle()
        await _answer(exchange, 200, {"idle": True})

    async def _invoke(self, exchange: Exchange) -> None:
        order = await _order(exchange)
        if (failed := self.function.failed) is not None:
            answer = {"outcome": "error", "reason": "no_handler", "error": describe(failed)}
            await exchange.start(200, [(b"content-type", b"application/x-ndjson")], closing=True)
            await exchange.send(json.dumps(answer).encode() + b'\n{"idle":true}\n')
            await exchange.finish()
            return
        attempt = self.function.invocations.begin(order)
        if attempt is None:
            await _answer(exchange, 410, {"error": "this attempt was answered long ago"})
        else:
            await _tell(exchange, attempt)

    async def _abort(self, exchange: Exchange) -> None:
        order = await _order(exchange)
        key = (str(order["invocationId"]), int(order["attempt"]))
        await _answer(exchange, 200, {"found": self.function.invocations.abort(key)})

    async def _give_secrets(self, exchange: Exchange) -> None:
        order = await _order(exchange)
        given = {str(k): str(v) for k, v in cast("dict[str, str]", order["secrets"]).items()}
        for name in self._secrets:
            os.environ.pop(name, None)
        self._secrets.clear()
        self._secrets.update(given)
        os.environ.update(given)
        await _answer(exchange, 200, {})

    async def _before_snapshot(self, exchange: Exchange) -> None:
        await _order(exchange)
        await self._hook(exchange, "beforeSnapshot")
        if self.visitors is not None:
            self.visitors.drop_idle()
        gc.collect()

    async def _after_resume(self, exchange: Exchange) -> None:
        await _order(exchange)
        if self.visitors is not None:
            self.visitors.drop_idle()
        reseed()
        await self._hook(exchange, "afterResume")

    async def _hook(self, exchange: Exchange, name: str) -> None:
        function = self.function.handlers.get(name)
        try:
            if function is not None:
                task = asyncio.create_task(_outcome(function, self.function.threads))
                if (failed := await task) is not None:
                    raise failed
        except BaseException as error:
            show(error)
            await _answer(exchange, 500, {"error": describe(error)})
        else:
            await _answer(exchange, 200, {})


async def _outcome(function: Callable[..., Any], threads: Executor) -> BaseException | None:
    try:
        await called(function, threads=threads)
    except BaseException as error:
        return error
    return None


async def _tell(exchange: Exchange, attempt: Attempt) -> None:
    """Send the answer when it is there, and a line more when nothing of the attempt runs."""
    await exchange.start(200, [(b"content-type", b"application/x-ndjson")], closing=True)
    answer = await asyncio.shield(attempt.answer)
    await exchange.send(answer + b"\n")
    await attempt.idle.wait()
    told: dict[str, Any] = {"idle": True}
    if attempt.failed_later:
        told["errors"] = attempt.failed_later[:10]
    await exchange.send(json.dumps(told).encode() + b"\n")
    await exchange.finish()


async def _order(exchange: Exchange, most: int = ORDER_MAX_BYTES) -> dict[str, Any]:
    body = await exchange.body(most)
    order: Any = json.loads(body) if body else {}
    if not isinstance(order, dict):
        raise TypeError("an order is an object")
    return cast("dict[str, Any]", order)


async def _answer(exchange: Exchange, status: int, told: dict[str, Any]) -> None:
    with contextlib.suppress(ConnectionError):
        await exchange.answer(status, "application/json", json.dumps(told).encode() + b"\n")
