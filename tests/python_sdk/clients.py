"""Both clients behind one face, so that every test is held against both."""

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AbstractAsyncContextManager, contextmanager
from functools import partial
from typing import Any, Literal, cast

from anyio.from_thread import BlockingPortal, start_blocking_portal

from cakework_client import AsyncCakeworkClient, CakeworkClient

Kind = Literal["sync", "async"]
KINDS: tuple[Kind, Kind] = ("sync", "async")


@contextmanager
def client_of(kind: Kind, **options: Any) -> Generator[CakeworkClient]:
    """A client; the asynchronous one looks like the other, its loop runs in a thread."""
    if kind == "sync":
        with CakeworkClient(**options) as client:
            yield client
        return
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(AsyncCakeworkClient(**options)) as client,
    ):
        yield cast("CakeworkClient", Blocking(client, portal))


class Blocking:
    """Something asynchronous, whose methods return when they are done."""

    def __init__(self, hidden: Any, portal: BlockingPortal) -> None:
        self._hidden = hidden
        self._portal = portal

    def __repr__(self) -> str:
        return repr(self._hidden)

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._hidden, "aclose" if name == "close" else name)
        return partial(self._call, found) if callable(found) else found

    def _call(self, method: Callable[..., Any], *args: Any, **options: Any) -> Any:
        result = method(*args, **options)
        if inspect.isasyncgen(result):
            return self._generate(cast("AsyncGenerator[Any]", result))
        if inspect.isawaitable(result):
            return self._portal.call(_awaited, result)
        if isinstance(result, AbstractAsyncContextManager):
            return self._manage(cast("AbstractAsyncContextManager[Any]", result))
        return result

    def _generate(self, items: AsyncGenerator[Any]) -> Generator[Any]:
        try:
            while True:
                try:
                    item = self._portal.call(items.__anext__)
                except StopAsyncIteration:
                    return
                yield item
        finally:
            self._portal.call(items.aclose)

    @contextmanager
    def _manage(self, manager: AbstractAsyncContextManager[Any]) -> Generator[Any]:
        with self._portal.wrap_async_context_manager(manager) as value:
            has_calls = hasattr(value, "aclose")
            yield Blocking(value, self._portal) if has_calls else value


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result
