"""Flow control without instances: a store, a clock that the test sets, and attempts that begin and
end when the test says so."""

import contextlib
import json
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import func, select, update
from sqlalchemy.orm import Session

from cakework.domain.functions import FunctionSettings
from cakework.domain.ids import (
    AccountId,
    FunctionId,
    InvocationId,
    UserId,
    new_function_id,
    new_trigger_id,
)
from cakework.domain.invocations import Outcome, Reason
from cakework.server.app import Server, build_server
from cakework.server.functions.due import FIRST, Due, due_work
from cakework.server.functions.invocations import NewInvocation
from cakework.server.functions.starts import Job
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.flow_models import MemberRow, MeterRow, TicketRow
from cakework.server.store.function_models import AttemptRow, FunctionRow, InvocationRow
from cakework.server.store.models import AccountRow, Base
from cakework.settings import Settings

from .rig import lay_tables, settings_for

START_MS = 1_800_000_000_000
VM = "0" * 14
Json = dict[str, Any]


@dataclass
class Bench:
    """A server whose loops do not run."""

    server: Server
    clock: "SetClock"
    settings: Settings
    passes: int = 0
    names: dict[str, str] = field(default_factory=dict[str, str])
    """Accounts of functions."""

    @contextlib.asynccontextmanager
    async def another(self) -> AsyncGenerator["Bench"]:
        """Open the same store once more, as another server."""
        async with _opened(self.settings, self.clock) as made:
            made.names = self.names
            yield made

    async def function(self, limits: Sequence[Json], account: str = "default", **more: Any) -> str:
        """Make a function of which something is live."""
        function_id = new_function_id()
        settings = FunctionSettings.model_validate({"limits": limits, **more})
        now = self.clock()
        row = FunctionRow(
            id=function_id,
            account_id=account,
            user_id="",
            name=function_id[-8:].lower(),
            kind="function",
            runtime="python3.11",
            hostname=function_id.lower(),
            settings=settings.model_dump_json(by_alias=True, exclude_unset=True),
            live_version=1,
            last_version=1,
            created_ms=now,
            updated_ms=now,
        )
        self.names[function_id] = account
        async with self.server.database.writing() as session:
            if await session.get(AccountRow, account) is None:
                session.add(AccountRow(id=account, created_ms=1))
                await session.flush()
            session.add(row)
        return function_id

    async def trigger(self, function_id: str, limits: Sequence[Json] | None) -> str:
        """Make a trigger of a function."""
        trigger_id, now = new_trigger_id(), self.clock()
        async with self.server.database.writing() as session:
            session.add(
                TriggerRow(
                    id=trigger_id,
                    account_id=self.names[function_id],
                    function_id=function_id,
                    type="event",
                    config='{"types":["a"]}',
                    limits=None if limits is None else json.dumps(limits),
                    created_ms=now,
                    updated_ms=now,
                )
            )
        return trigger_id

    async def take(self, function_id: str, data: Any = None, **more: Any) -> InvocationRow:
        """Take an invocation."""
        new = self.new(data, **more)
        account = AccountId(self.names[function_id])
        return await self.server.functions.invocations.take(account, FunctionId(function_id), new)

    async def many(self, function_id: str, news: Sequence[NewInvocation]) -> list[str]:
        """Take many, a few hundred in a transaction; return their ids."""
        account, ids = AccountId(self.names[function_id]), list[str]()
        invocations = self.server.functions.invocations
        for start in range(0, len(news), 250):
            some = news[start : start + 250]

            def work(session: Session, some: Sequence[NewInvocation] = some) -> list[str]:
                of = FunctionId(function_id)
                return [invocations.enter(session, account, of, new).id for new in some]

            ids += await self.server.database.together(work)
        return ids

    @staticmethod
    def new(data: Any = None, user: str = "", **more: Any) -> NewInvocation:
        """Return what is asked for."""
        return NewInvocation({"type": "a", "data": data}, UserId(user), **more)

    async def due(self) -> list[Due]:
        """Return what the dispatch loop would find now, in one pass of it."""
        self.passes += 1
        now = self.clock()
        return (await self.server.database.look(lambda s: due_work(s, now, FIRST))).rows

    async def begin(self, invocation_id: str) -> None:
        """Have the next attempt of an invocation run."""
        now = self.clock()

        def work(session: Session) -> None:
            row = session.get_one(InvocationRow, invocation_id)
            assert row.state in ("queued", "waiting"), row.state
            assert row.next_ms <= now, "it is not due"
            row.state, row.vm_id, row.deadline_ms, row.version = "running", VM, now + 1000, 1
            row.attempt += 1
            session.flush()
            session.add(
                AttemptRow(
                    invocation_id=row.id,
                    attempt=row.attempt,
                    version=1,
                    vm_id=VM,
                    start="fork",
                    started_ms=now,
                )
            )

        await self.server.database.together(work)

    async def begin_due(self) -> list[str]:
        """Have all begin that is due; return what that is, in the order in which it is taken up."""
        begun: list[str] = []
        while found := await self.due():
            for each in found:
                await self.begin(each.id)
                begun.append(each.id)
        return begun

    async def end(self, invocation_id: str, reason: Reason | None = None) -> None:
        """Have the attempt that runs end, as the server settles it."""
        attempts = self.server.functions.dispatch._attempts  # pyright: ignore
        functions = self.server.functions.functions

        def work(session: Session) -> None:
            row = session.get_one(InvocationRow, invocation_id)
            function = session.get(FunctionRow, row.function_id)
            settings = FunctionSettings() if function is None else functions.settings(function)
            job = Job(row, settings, alone=False)
            attempts._settled(session, job, Outcome(reason), None, None, {})  # pyright: ignore

        await self.server.database.together(work)

    async def finish(self, invocation_id: str) -> None:
        """Have an attempt begin and end well."""
        await self.begin(invocation_id)
        await self.end(invocation_id)

    async def cancel(self, function_id: str, invocation_id: str) -> None:
        """Have an invocation given up."""
        account = AccountId(self.names[function_id])
        await self.server.functions.invocations.cancel(account, InvocationId(invocation_id))

    async def flow(self, *, after_ms: int = 0) -> None:
        """Have a pass of the flow loop, so much later."""
        self.clock.now += after_ms
        await self.server.functions.flow.one_pass()

    async def sweep(self) -> None:
        """Have the flow loop look through all that is held."""
        self.server.functions.flow.changed("")
        await self.flow()

    async def set_limits(self, function_id: str, limits: Sequence[Json]) -> None:
        """Give a function other rules."""
        patch = FunctionSettings.model_validate({"limits": limits})
        account = AccountId(self.names[function_id])
        await self.server.functions.functions.change(account, FunctionId(function_id), patch)
        await self.flow()

    async def row(self, invocation_id: str) -> InvocationRow:
        """Return the record of an invocation."""
        async with self.server.database.reading() as session:
            return await session.get_one(InvocationRow, invocation_id)

    async def state(self, invocation_id: str) -> str:
        """Return the state of an invocation, with its reason if it has one."""
        row = await self.row(invocation_id)
        return row.state if row.reason is None else f"{row.state}: {row.reason}"

    async def event(self, invocation_id: str) -> Json:
        """Return the event of an invocation."""
        return json.loads(self.server.functions.invocations.event(await self.row(invocation_id)))

    async def count(self, table: type[Base]) -> int:
        """Return how many rows a table has."""
        query = select(func.count()).select_from(table)
        return await self.server.database.look(lambda session: session.scalar(query)) or 0

    async def is_clean(self) -> None:
        """Check that nothing is left of flow control, once what it measured is over."""
        await self.sweep()
        self.clock.now += 700_000_000_000
        await self.sweep()
        left = [await self.count(table) for table in (TicketRow, MemberRow, MeterRow)]
        assert left == [0, 0, 0]

    async def set(self, invocation_id: str, **values: Any) -> None:
        """Change the record of an invocation."""
        async with self.server.database.writing() as session:
            which = InvocationRow.id == invocation_id
            await session.execute(update(InvocationRow).where(which).values(**values))


@dataclass
class SetClock:
    """Says what time it is as it is told."""

    now: int = START_MS

    def __call__(self) -> int:
        return self.now


@contextlib.asynccontextmanager
async def bench_of(folder: Path, database_url: str | None) -> AsyncGenerator[Bench]:
    """Open the stores of a server."""
    settings = settings_for(folder, database_url)
    await lay_tables(settings)
    async with _opened(settings, SetClock()) as made:
        yield made


@contextlib.asynccontextmanager
async def _opened(settings: Settings, clock: SetClock) -> AsyncGenerator[Bench]:
    server = build_server(settings, clock)
    server.sealer.open_key()
    await server.database.open()
    try:
        yield Bench(server, clock, settings)
    finally:
        await server.database.close()


def heard(server: Server, statements: list[str]) -> Callable[[], None]:
    """Have all statements that are executed put down; return what ends that."""
    from sqlalchemy import event

    def hear(_c: object, _u: object, statement: str, *_: object) -> None:
        statements.append(statement)

    for engine in server.database.engines:
        event.listen(engine, "before_cursor_execute", hear)

    def end() -> None:
        for engine in server.database.engines:
            event.remove(engine, "before_cursor_execute", hear)

    return end
