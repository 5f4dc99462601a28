"""A store with triggers, the schedules of as many servers as a test wants, and its clock."""

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select, update

from cakework.domain.functions import FunctionSettings
from cakework.domain.ids import new_function_id, new_trigger_id
from cakework.domain.occurrences import next_due
from cakework.domain.triggers import CronConfig, TriggerType
from cakework.server.app import Server, build_server
from cakework.server.automations.schedules import Schedules
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.database import Database
from cakework.server.store.function_models import FunctionRow, InvocationRow
from cakework.server.store.models import AccountRow
from cakework.settings import Settings

from .rig import lay_tables

NOON = int(datetime.fromisoformat("2026-12-01T12:00:00Z").timestamp() * 1000)
ACCOUNT = "default"
SECOND = 1_000
MINUTE = 60 * SECOND
HOUR = 60 * MINUTE


@dataclass
class Bench:
    """``now`` is what time it is, in unix ms; servers have no loops running."""

    settings: Settings
    servers: list[Server] = field(default_factory=list[Server])
    now: int = NOON - 1

    @property
    def database(self) -> Database:
        return self.servers[0].database

    @property
    def schedules(self) -> Schedules:
        return self.servers[0].automations.schedules

    @contextlib.asynccontextmanager
    async def server(self) -> AsyncGenerator[Server]:
        """Give a further server on the store."""
        server = build_server(self.settings, lambda: self.now)
        await asyncio.to_thread(server.sealer.open_key)
        await server.database.open()
        self.servers.append(server)
        try:
            yield server
        finally:
            server.automations.schedules.close()
            await server.database.close()
            await server.node.close()

    async def at(self, now_ms: int) -> None:
        """Have a pass at that time."""
        self.now = now_ms
        await self.schedules.one_pass()

    async def account(self, name: str) -> str:
        async with self.database.writing() as session:
            session.add(AccountRow(id=name, created_ms=1))
        return name

    async def function(self, account: str = ACCOUNT) -> str:
        """Make a function that nothing is deployed to."""
        function_id = new_function_id()
        async with self.database.writing() as session:
            session.add(
                FunctionRow(
                    id=function_id,
                    account_id=account,
                    name=function_id.lower().replace("_", "-"),
                    runtime="python3.11",
                    hostname=f"{function_id.lower()}.invalid",
                    settings=FunctionSettings().model_dump_json(by_alias=True),
                    created_ms=1,
                    updated_ms=1,
                )
            )
        return function_id

    async def trigger(self, function_id: str, account: str = ACCOUNT, **config: Any) -> str:
        """Make a trigger as of now; return its id."""
        (trigger_id,) = await self.triggers(1, function_id, account, **config)
        return trigger_id

    async def triggers(
        self, count: int, function_id: str, account: str = ACCOUNT, **config: Any
    ) -> list[str]:
        """Make triggers as of now; return their ids."""
        text = json.dumps(config)
        model = CronConfig.model_validate_json(text)
        ids = [new_trigger_id() for _ in range(count)]
        rows = [
            {
                "id": each,
                "account_id": account,
                "function_id": function_id,
                "user_id": "",
                "type": TriggerType.CRON,
                "managed_by": "api",
                "enabled": True,
                "failures": 0,
                "failing": False,
                "refused": 0,
                "config": text,
                "next_ms": next_due(each, model, self.now),
                "created_ms": self.now,
                "updated_ms": self.now,
            }
            for each in ids
        ]
        async with self.database.writing() as session:
            await session.execute(insert(TriggerRow), rows)
        return [str(each) for each in ids]

    async def row(self, trigger_id: str) -> TriggerRow:
        async with self.database.reading() as session:
            row = await session.get(TriggerRow, trigger_id)
        assert row is not None
        return row

    async def change(self, trigger_id: str, **values: Any) -> None:
        """Write into the row of a trigger."""
        async with self.database.writing() as session:
            await session.execute(
                update(TriggerRow).where(TriggerRow.id == trigger_id).values(**values)
            )

    async def made(self, trigger_id: str | None = None) -> Sequence[InvocationRow]:
        """Return invocations, by the times at which they were to be."""
        query = select(InvocationRow).order_by(InvocationRow.scheduled_ms, InvocationRow.id)
        if trigger_id is not None:
            query = query.where(InvocationRow.trigger_id == trigger_id)
        async with self.database.reading() as session:
            return list(await session.scalars(query))

    async def told(self, trigger_id: str) -> list[tuple[int, str, str | None]]:
        """Return of a trigger's invocations when each was to be, its state, and why."""
        return [
            (each.scheduled_ms or 0, each.state, each.reason)
            for each in await self.made(trigger_id)
        ]

    async def begin(self, invocation: InvocationRow) -> None:
        """Have an attempt of it under way."""
        await self._is(invocation, state="running", vm_id="0" * 14, attempt=1, deadline_ms=1)

    async def fail(self, invocation: InvocationRow) -> None:
        """Have an attempt of it fail, and another follow."""
        await self._is(invocation, state="waiting", vm_id=None, next_ms=self.now + MINUTE)

    async def end(self, invocation: InvocationRow) -> None:
        """Have it succeed."""
        await self._is(invocation, state="succeeded", vm_id=None, ended_ms=self.now)

    async def _is(self, invocation: InvocationRow, **values: Any) -> None:
        async with self.database.writing() as session:
            await session.execute(
                update(InvocationRow).where(InvocationRow.id == invocation.id).values(**values)
            )


@contextlib.asynccontextmanager
async def bench(settings: Settings) -> AsyncGenerator[Bench]:
    """Give one with one server, and an account."""
    await lay_tables(settings)
    made = Bench(settings)
    async with made.server():
        await made.account(ACCOUNT)
        yield made
