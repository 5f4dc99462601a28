"""Event triggers as rows, and what tests look at of events and what these led to."""

import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import select

from cakework.domain.ids import new_trigger_id
from cakework.domain.triggers import EventConfig
from cakework.server.clock import now_ms
from cakework.server.store.automation_models import EventRow, TriggerRow
from cakework.server.store.function_models import InvocationRow

from .rig import Json, Rig


async def function_of(rig: Rig, name: str = "f", **fields: Any) -> str:
    """Make a function without code: what is made of it fails when it would begin."""
    body = {"name": name, "runtime": "python3.11", **fields}
    return (await rig.ok("POST", "/v1/functions", json=body))["id"]


async def triggers_of(
    rig: Rig,
    function_id: str,
    types: Sequence[str] = ("*",),
    *,
    count: int = 1,
    account: str = "default",
    filters: Json | None = None,
    source: str | None = None,
    **fields: Any,
) -> list[str]:
    """Put triggers on record; return their ids, in order."""
    ids, now = sorted(str(new_trigger_id()) for _ in range(count)), now_ms()
    config = EventConfig(types=tuple(types), source=source).model_dump_json(by_alias=True)
    async with rig.server.database.writing() as session:
        for each in ids:
            values = {
                "id": each,
                "account_id": account,
                "function_id": function_id,
                "type": "event",
                "config": config,
                "filter": None if filters is None else json.dumps(filters),
                "created_ms": now,
                "updated_ms": now,
                **fields,
            }
            session.add(TriggerRow(**values))
    return ids


async def change(rig: Rig, trigger_id: str, **fields: Any) -> None:
    """Change a trigger, as its calls do."""
    async with rig.server.database.writing() as session:
        row = await session.get_one(TriggerRow, trigger_id)
        row.updated_ms = max(now_ms(), row.updated_ms + 1)
        for name, value in fields.items():
            setattr(row, name, value)


async def emit(rig: Rig, *events: Json, status: int = 202, **request: Any) -> Json:
    """Emit events; return what is answered."""
    body = {"events": list(events)}
    response = await rig.client.post("/v1/events", json=body, **request)
    assert response.status_code == status, response.text
    return response.json()


async def made(rig: Rig) -> list[InvocationRow]:
    """Return all invocations that events made."""
    query = select(InvocationRow).where(InvocationRow.event_id.is_not(None))
    async with rig.server.database.reading() as session:
        return list(await session.scalars(query.order_by(InvocationRow.trigger_id)))


async def kept(rig: Rig) -> list[EventRow]:
    """Return all events on record."""
    async with rig.server.database.reading() as session:
        return list(await session.scalars(select(EventRow).order_by(EventRow.id)))
