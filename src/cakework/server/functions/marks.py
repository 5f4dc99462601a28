"""Marks: which lines of an instance's log are an attempt's.

    mark ──▶ given to its instance ──▶ answered ──▶ nothing of it runs ──▶ mark ──▶ place free

The guest says of which number its last line was, in the ordered stream of them; so whatever a
program prints, it is above one number and not above another. Where an attempt begins is held in
memory until its end is written, and written sooner only if it takes longer than WRITTEN_AFTER_S, or
if others run beside it in the instance.

What is not known goes by what is: an attempt without a last line has all that came behind its first
one, since its instance went with it; without a first line, those of its instance that nobody else's
are and that were printed since it began. So it is after a process that ended between two marks, and
where a guest did not answer in time. An instance whose lines cannot be marked serves no more.
"""

import asyncio
import contextlib
from functools import partial

import structlog
from sqlalchemy import ColumnElement, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cakework.domain.errors import CakeworkError
from cakework.domain.ids import VmId
from cakework.server.logs.lines import vm_source
from cakework.server.logs.store import LogStore
from cakework.server.logs.stretches import Stretches
from cakework.server.node.client import NodeClient
from cakework.server.store.database import Database
from cakework.server.store.function_models import AttemptRow, FunctionVmRow

BEGIN_S = 2.0
"""What an attempt waits for its mark at most: it comes behind what its instance printed before."""
END_S = 10.0
WRITTEN_AFTER_S = 0.2
Key = tuple[str, int]
"""An invocation's id, and the number of an attempt."""
_log = structlog.stdlib.get_logger(__name__)


class Marks:
    """Where the attempts of this process begin and end in the logs of their instances."""

    def __init__(
        self, database: Database, node: NodeClient, logs: LogStore, stretches: Stretches
    ) -> None:
        """Ask ``node``; ``stretches`` are told, by which an attempt's lines are bounded."""
        self._database = database
        self._node = node
        self._logs = logs
        self._stretches = stretches
        self._begun: dict[Key, int] = {}
        self._unwritten: set[Key] = set()
        self._writing: asyncio.Task[None] | None = None

    async def begin(self, key: Key, vm_id: VmId, *, fresh: bool, alone: bool) -> None:
        """Mark where an attempt begins, before it is given to its instance.

        ``fresh``: the instance was made for it, and all that it prints is its own. Not ``alone``:
        others run in the instance beside it, and what is read meanwhile has to tell them apart.
        """
        first = 0 if fresh else await self._mark(vm_id, BEGIN_S)
        if first is None:
            return
        self._stretches.begin(vm_source(vm_id), first)
        self._begun[key] = first
        self._unwritten.add(key)
        if not alone:
            await self._write()
        elif self._writing is None:
            self._writing = asyncio.create_task(self._write_later())

    async def take_up(self, key: Key, vm_id: VmId) -> None:
        """Have the lines bounded of an attempt that another process began."""
        source = vm_source(vm_id)
        async with self._database.reading() as session:
            row = await session.get(AttemptRow, key)
        known = row.first_line if row is not None else None
        first = known if known is not None else await self._logs.last_seq(source)
        self._stretches.begin(source, first)

    def first_of(self, key: Key) -> dict[str, int]:
        """Return what is to be written of where an attempt begins, with its end."""
        self._unwritten.discard(key)
        first = self._begun.pop(key, None)
        return {} if first is None else {"first_line": first}

    async def end(self, vm_id: VmId) -> int | None:
        """Mark where an attempt ends, of which nothing runs any more; None: that is not known, and
        its instance must serve no more."""
        last = await self._mark(vm_id, END_S)
        if last is not None:
            self._stretches.begin(vm_source(vm_id), last)
        return last

    def write_end(self, session: Session, key: Key, last: int | None) -> None:
        """Write where an attempt ends, if that is known."""
        if last is not None:
            session.execute(update(AttemptRow).where(_is(key)).values(last_line=last))

    async def close(self) -> None:
        """Write what is not written: the next process takes the attempts up."""
        if self._writing is not None:
            self._writing.cancel()
            await asyncio.gather(self._writing, return_exceptions=True)
        await self._write()

    async def _write_later(self) -> None:
        try:
            await asyncio.sleep(WRITTEN_AFTER_S)
        finally:
            self._writing = None
        await self._write()

    async def _write(self) -> None:
        keys, self._unwritten = self._unwritten, set()
        begun = [(key, self._begun[key]) for key in sorted(keys) if key in self._begun]
        # With what else this process writes of attempts, one after the other: two transactions that
        # each have several may wait for each other.
        await asyncio.gather(
            *(self._database.together(partial(_write_begin, *one)) for one in begun)
        )

    async def _mark(self, vm_id: VmId, within_s: float) -> int | None:
        with contextlib.suppress(TimeoutError):
            try:
                async with asyncio.timeout(within_s):
                    return await self._node.mark_lines(vm_id, within_s)
            except CakeworkError as error:
                _log.info("attempt.not_marked", vm_id=vm_id, detail=error.detail)
                return None
        _log.info("attempt.not_marked", vm_id=vm_id, detail="The guest does not answer.")
        return None


def note_vm(
    session: AsyncSession | Session, vm_id: str, function_id: str, version: int, now_ms: int
) -> None:
    """Record a function's VM that is about to be started: its lines are the function's."""
    session.add(
        FunctionVmRow(vm_id=vm_id, function_id=function_id, version=version, created_ms=now_ms)
    )


def _write_begin(key: Key, first: int, session: Session) -> None:
    session.execute(update(AttemptRow).where(_is(key)).values(first_line=first))


def _is(key: Key) -> ColumnElement[bool]:
    return (AttemptRow.invocation_id == key[0]) & (AttemptRow.attempt == key[1])
