"""Code on its way in: whatever it comes as, it becomes a source.

| Comes as | From |
|---|---|
| files | the request |
| an archive | the request, a form |
| a branch on GitHub | the node, while the caller waits; the token is kept nowhere |
| the draft | what an editor saved |
| a version | the same function; what is not locked is installed as of today |
"""

import asyncio
import json
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

from cakework.domain.errors import InvalidRequest
from cakework.domain.functions import Runtime
from cakework.domain.ids import AccountId, FunctionId
from cakework.domain.orders import CodeOrder, GithubSource
from cakework.server.clock import Clock
from cakework.server.functions.archives import KEPT_BYTES_MAX, files_of
from cakework.server.functions.drafts import Drafts
from cakework.server.functions.functions import Functions
from cakework.server.functions.sources import Source, source_of
from cakework.server.node.client import NodeClient
from cakework.turns import Turns

ARCHIVES_AT_ONCE = 2


@dataclass(frozen=True, slots=True)
class Archive:
    """A tar, as it is or compressed by gzip."""

    content: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Github:
    """The newest commit of a branch, or what is in a folder of it."""

    source: GithubSource
    folder: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """What is saved of the function."""


@dataclass(frozen=True, slots=True)
class OfVersion:
    """What a version of the function was sent as."""

    number: int


Given = Source | Archive | Github | Draft | OfVersion


@dataclass(frozen=True, slots=True)
class Taken:
    """What came in: a source, what imports it where that is known, and whether dependencies that
    are not locked are wanted as of a day (``YYYY-MM-DD``)."""

    source: Source
    entry: str | None = None
    signature: str | None = None
    fresh: str | None = None


class Intake:
    """Makes sources of what is given."""

    def __init__(
        self, functions: Functions, drafts: Drafts, node: NodeClient, clock: Clock
    ) -> None:
        """Look up versions in ``functions``, and have ``node`` fetch what is elsewhere."""
        self._functions = functions
        self._drafts = drafts
        self._node = node
        self._clock = clock
        self._turns: Turns[AccountId] = Turns(ARCHIVES_AT_ONCE)

    async def take(
        self,
        account: AccountId,
        function_id: FunctionId | None,
        runtime: Runtime,
        given: Given,
        lock: str | None = None,
    ) -> Taken:
        """Return what was given for a function, which may not be there yet.

        Raises:
            InvalidRequest: it cannot be had, or is no code.
            TooLarge: there is more of it than is taken.
            NotFound: there is no draft, or no such version.
            QuotaExceeded: too much of the account is being fetched.
        """
        taken = await self._taken(account, function_id, given)
        if lock is None:
            return taken
        locked = await asyncio.to_thread(with_lock, taken.source, runtime, lock)
        return Taken(locked, taken.entry, taken.signature)

    async def _taken(
        self, account: AccountId, function_id: FunctionId | None, given: Given
    ) -> Taken:
        if isinstance(given, Source):
            return Taken(given)
        if isinstance(given, Archive):
            return Taken(await self._unpacked(account, given.content))
        if isinstance(given, Github):
            order = CodeOrder(account_id=account, source=given.source)
            archive = await self._node.code(order)
            return Taken(await self._unpacked(account, archive, given.folder, links=True))
        if function_id is None:
            raise InvalidRequest("A function that is being made has no draft and no versions yet.")
        if isinstance(given, Draft):
            return Taken((await self._drafts.get(account, function_id)).source)
        row = await self._functions.version(account, function_id, given.number)
        source = await self._functions.source(account, function_id, given.number)
        today = datetime.fromtimestamp(self._clock() / 1000, UTC).date().isoformat()
        return Taken(source, row.entry, row.signature, today)

    async def _unpacked(
        self, account: AccountId, archive: bytes, folder: str = "", *, links: bool = False
    ) -> Source:
        async with self._turns.hold(account):
            return await asyncio.to_thread(_source_in, archive, folder, links)


def with_lock(source: Source, runtime: Runtime, lock: str) -> Source:
    """Return a source with a lock file in the place of its own.

    Raises:
        InvalidRequest: it is no lock file, or the source has nothing that it locks.
    """
    node = runtime is Runtime.NODE_24
    name, of = ("package-lock.json", "package.json") if node else ("uv.lock", "pyproject.toml")
    if of not in source.files:
        raise InvalidRequest(f"`lock` is what a {name} says, and the source has no {of}.")
    try:
        said: Mapping[str, object] = json.loads(lock) if node else tomllib.loads(lock)
        if ("lockfileVersion" if node else "version") not in said:
            raise ValueError("it has no version")
    except (ValueError, TypeError, RecursionError) as error:
        raise InvalidRequest(f"`lock` is not what a {name} says.") from error
    files = {**source.files, name: lock.encode()}
    return source_of(files.items(), KEPT_BYTES_MAX)


def _source_in(archive: bytes, folder: str, links: bool) -> Source:
    return source_of(files_of(archive, folder, links=links), KEPT_BYTES_MAX)
