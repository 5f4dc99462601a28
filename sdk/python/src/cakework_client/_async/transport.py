"""Sends calls and opens streams over one pool of connections."""

from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any, Self, TypeVar

from cakework_client._async.waiting import sleep
from cakework_client.calls import (
    Call,
    Deadline,
    Form,
    Options,
    PostOptions,
    Tries,
    answer,
    named,
    refusal,
)
from cakework_client.configuration import RETRIES, TIMEOUT_S, Configuration
from cakework_client.errors import CakeworkError
from cakework_client.keywords import check_methods, checked
from cakework_client.wire import Answer

if TYPE_CHECKING:
    import httpx2

A = TypeVar("A", bound=Answer)
T = TypeVar("T")


class AsyncTransport:
    """What all calls have in common. Connections are opened by the first one."""

    def __init_subclass__(cls) -> None:
        check_methods(cls)

    @checked
    def __init__(
        self,
        *,
        url: str | None = None,
        api_key: str | None = None,
        timeout: float = TIMEOUT_S,
        retries: int = RETRIES,
        user_agent: str | None = None,
    ) -> None:
        """Make a client; it connects when it is first used.

        Args:
            url: Where the server is; CAKEWORK_URL, or http://127.0.0.1:8081, if absent.
            api_key: The key; CAKEWORK_API_KEY if absent.
            timeout: Seconds within which a call must be done, with all tries and pauses.
            retries: How often a call is tried again where that is safe.
            user_agent: Name of your program, for the server's log.

        Raises:
            ValueError: There is no key, or something given cannot be.
        """
        self._configuration = Configuration.of(url, api_key, timeout, retries, user_agent)
        self._http: httpx2.AsyncClient | None = None
        self._opening = Lock()

    def __repr__(self) -> str:
        """Name the server, not the key."""
        return f"{type(self).__name__}(url={self.url!r})"

    @property
    def url(self) -> str:
        """Where the server is."""
        return self._configuration.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Close all connections; a later call opens new ones."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def _call(
        self,
        kind: type[A],
        method: str,
        path: str,
        options: PostOptions | Options,
        *,
        params: Mapping[str, Any] | None = None,
        body: Mapping[str, Any] | None = None,
        more: Mapping[str, str] | None = None,
        form: Form | None = None,
    ) -> A:
        """Make a call; ``more`` are headers of its own."""
        call = Call.of(method, path, options, params, body, more, form)
        return await self._done(call, options, lambda got, body: answer(kind, got, body))

    async def _done(
        self,
        call: Call,
        options: PostOptions | Options,
        told: "Callable[[httpx2.Response, bytes], T]",
    ) -> T:
        """Make a call; return what is told of its answer."""
        deadline = Deadline(options.get("timeout", self._configuration.timeout_s))
        tries = Tries(call, self._configuration.retries, deadline)
        while True:
            try:
                async with self._open(call, deadline) as response:
                    return told(response, await _read(response, deadline))
            except CakeworkError as failure:
                pause_s = tries.pause_s(failure)
                if pause_s is None:
                    raise
            await sleep(pause_s)

    @asynccontextmanager
    async def _open(
        self, call: Call, deadline: Deadline, headers: Mapping[str, str] | None = None
    ) -> "AsyncGenerator[httpx2.Response]":
        """Send a call; give the response, whose body is still to come, if it is a good one."""
        with named(deadline, self.url):
            async with self._connections().stream(
                call.method,
                f"{self.url}{call.path}",
                params=call.params or None,
                content=call.content,
                headers={**call.headers, **(headers or {})},
                extensions={"timeout": deadline},
            ) as response:
                if not response.is_success:
                    raise refusal(response, await _read(response, deadline))
                yield response

    def _connections(self) -> "httpx2.AsyncClient":
        from httpx2 import AsyncClient

        with self._opening:
            if self._http is None:
                # Reading the certificates takes longer than a call; http:// has no use for them.
                tls = self.url.startswith("https:")
                self._http = AsyncClient(headers=self._configuration.headers, verify=tls)
            return self._http


async def _read(response: "httpx2.Response", deadline: Deadline) -> bytes:
    """Return a response's body, however slowly it comes within the deadline."""
    body = bytearray()
    async for chunk in response.aiter_bytes():
        deadline.check()
        body += chunk
    return bytes(body)
