"""One attempt: a signed POST to an address that was checked, and what came of it.

Signature and headers: Standard Webhooks 1.0 (https://www.standardwebhooks.com). Redirects are
answers like others, so no success, and not followed; no proxy is used.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import httpcore2
from standardwebhooks.webhooks import Webhook

import cakework
from cakework.domain.ids import AccountId
from cakework.server.store.values import storable
from cakework.server.webhooks.addresses import Guard, NotAllowed
from cakework.server.webhooks.names import NotKnown

TIMEOUT_S = 15.0
ANSWER_BYTES_MAX = 2048
GONE = 410


@dataclass(frozen=True, slots=True)
class Message:
    """What is sent where, for whom: ``body`` is JSON, ``secrets`` all sign it."""

    account: AccountId
    url: str
    event_id: str
    body: str
    secrets: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt: an answer's status and first bytes, or an error for people."""

    status: int | None = None
    body: str | None = None
    error: str | None = None

    @property
    def succeeded(self) -> bool:
        """Whether the receiver has taken it."""
        return self.status is not None and 200 <= self.status < 300


class Sender:
    """Sends messages where ``guard`` allows."""

    def __init__(self, guard: Guard, trust: ssl.SSLContext, timeout_s: float = TIMEOUT_S) -> None:
        """Trust the certificates that ``trust`` does; an attempt takes ``timeout_s`` at most."""
        self._guard = guard
        self._trust = trust
        self._timeout_s = timeout_s

    async def send(self, message: Message, at_ms: int) -> Outcome:
        """Send a message once, as of ``at_ms``; never raises for what the receiver does."""
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._post(message, at_ms)
        except TimeoutError:
            return Outcome(error=f"No answer within {self._timeout_s:g} s.")
        except (NotAllowed, NotKnown) as error:
            return Outcome(error=error.detail)
        except ssl.SSLError as error:
            return Outcome(error=f"TLS: {error.reason or 'the connection failed'}.")
        except httpcore2.ConnectError as error:
            return Outcome(error=f"Could not connect: {_sentence(error)}")
        except (OSError, UnicodeError):
            return Outcome(error="The name in the URL has no address.")
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.UnsupportedProtocol):
            return Outcome(error="The connection broke off without an answer.")

    async def _post(self, message: Message, at_ms: int) -> Outcome:
        async with (
            httpcore2.AsyncConnectionPool(
                ssl_context=self._trust,
                max_connections=1,
                network_backend=_CheckedConnections(self._guard, message),
            ) as pool,
            pool.stream(
                "POST",
                message.url,
                headers=signed_headers(message, at_ms),
                content=message.body.encode(),
            ) as response,
        ):
            return Outcome(response.status, await _first_text(response.aiter_stream()))


@functools.cache
def trusted(extra_ca: Path | None) -> ssl.SSLContext:
    """Return the system's certificates to trust, and those in ``extra_ca`` (PEM).

    Raises:
        OSError: the file cannot be read.
    """
    context = ssl.create_default_context()
    if extra_ca is not None:
        context.load_verify_locations(extra_ca)
    return context


def signed_headers(message: Message, at_ms: int) -> list[tuple[str, str]]:
    """Return the headers of an attempt, with a signature by each secret."""
    at = datetime.fromtimestamp(at_ms // 1000, UTC)
    signatures = [
        Webhook(secret).sign(message.event_id, at, message.body) for secret in message.secrets
    ]
    return [
        ("content-type", "application/json"),
        ("user-agent", f"Cakework-Webhooks/{cakework.__version__}"),
        ("webhook-id", message.event_id),
        ("webhook-timestamp", str(at_ms // 1000)),
        ("webhook-signature", " ".join(signatures)),
        ("connection", "close"),
    ]


class _CheckedConnections(httpcore2.AsyncNetworkBackend):
    """Connects to addresses that were checked; TLS still asks for the name in the URL."""

    def __init__(self, guard: Guard, message: Message) -> None:
        self._guard = guard
        self._account = message.account
        self._encrypted = message.url.startswith("https:")
        self._inner = cast("httpcore2.AsyncNetworkBackend", httpcore2.AnyIOBackend())

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109
        local_address: str | None = None,
        socket_options: Iterable[httpcore2.SOCKET_OPTION] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await self._guard.addresses(
            self._account, host, port, encrypted=self._encrypted
        )
        for address in addresses[:-1]:
            try:
                return await self._inner.connect_tcp(address, port, timeout)
            except httpcore2.ConnectError:
                continue
        return await self._inner.connect_tcp(addresses[-1], port, timeout)


async def _first_text(stream: AsyncIterator[bytes]) -> str:
    kept = b""
    async for chunk in stream:
        kept += chunk
        if len(kept) >= ANSWER_BYTES_MAX:
            break
    return storable(kept[:ANSWER_BYTES_MAX].decode(errors="replace"))


def _sentence(error: Exception) -> str:
    text = storable(str(error))[:200] or "no reason was given"
    return text if text.endswith(".") else f"{text}."
