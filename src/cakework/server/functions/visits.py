"""Requests to functions' URLs on record: written in batches, as their routers tell of them."""

import json
from collections.abc import Iterable, Sequence

from pydantic import ValidationError
from sqlalchemy import case, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.ids import VmId
from cakework.domain.invocations import FINAL, InvocationState, Reason
from cakework.domain.routes import Visit
from cakework.server.functions.adapter import HandlerError
from cakework.server.functions.invocations import Endings, OnEnd
from cakework.server.functions.masks import Masks
from cakework.server.store.function_models import ROW_BYTES, AttemptRow, InstanceRow, InvocationRow
from cakework.server.store.sealing import Sealer
from cakework.server.store.values import not_before, storable

LATE_MS = 60_000
"""After its deadline nothing is heard of a request any more whose instance is not lent."""
SUCCEEDED = "succeeded"


class Visits:
    """Writes requests down. Each is written as often as is told of it, and ends once."""

    def __init__(self, sealer: Sealer, endings: Endings, masks: Masks, on_end: OnEnd) -> None:
        """Seal with ``sealer`` what they asked for; tell ``endings`` of those that are over, and
        ``on_end`` within the transaction."""
        self._sealer = sealer
        self._endings = endings
        self._on_end = on_end
        self._masks = masks

    async def told(self, visits: Iterable[Visit]) -> list[Visit]:
        """Return how requests are by now without the secrets of their VMs in their errors."""
        return [await self._masked(visit) for visit in visits]

    async def _masked(self, visit: Visit) -> Visit:
        if visit.error is None:
            return visit
        try:
            error = HandlerError.model_validate(visit.error)
        except ValidationError:
            return visit.model_copy(update={"error": None})
        masked = await self._masks.error(VmId(visit.vm_id), error)
        told = masked.model_dump(by_alias=True, exclude_none=True)
        return visit.model_copy(update={"error": told})

    async def note(self, session: AsyncSession, visits: Iterable[Visit]) -> None:
        """Write down how requests are by now."""
        # Of one, the last word; no statement may change a row twice.
        newest = list({visit.id: visit for visit in visits}.values())
        if not newest:
            return
        insert = sqlite.insert if _is_sqlite(session) else postgresql.insert
        ended = [visit for visit in newest if visit.state is not None]
        begun = [visit for visit in newest if visit.state is None]
        for some in (begun, ended):
            if not some:
                continue
            rows = insert(InvocationRow).values([self._row(visit) for visit in some])
            attempts = insert(AttemptRow).values([_attempt(visit) for visit in some])
            if some is begun:
                rows, attempts = rows.on_conflict_do_nothing(), attempts.on_conflict_do_nothing()
            else:
                told = rows.excluded
                rows = rows.on_conflict_do_update(
                    index_elements=[InvocationRow.id],
                    set_={
                        "state": told.state,
                        "reason": told.reason,
                        "error": told.error,
                        "result_sealed": told.result_sealed,
                        "result_type": told.result_type,
                        "kept_bytes": told.kept_bytes,
                        "vm_id": None,
                        "deadline_ms": None,
                        "ended_ms": told.ended_ms,
                        "updated_ms": case(
                            (InvocationRow.updated_ms > told.updated_ms, InvocationRow.updated_ms),
                            else_=told.updated_ms,
                        ),
                    },
                    where=InvocationRow.state == InvocationState.RUNNING,
                )
                told = attempts.excluded
                attempts = attempts.on_conflict_do_update(
                    index_elements=[AttemptRow.invocation_id, AttemptRow.attempt],
                    set_={
                        "outcome": told.outcome,
                        "ended_ms": told.ended_ms,
                        "duration_ms": told.duration_ms,
                    },
                    where=AttemptRow.outcome.is_(None),
                )
            over = list(await session.scalars(rows.returning(InvocationRow.id)))
            await session.execute(attempts)
            if some is ended:
                await self._have_ended(session, over)
        for visit in ended:
            self._endings.tell(visit.id)

    async def interrupt(self, session: AsyncSession, vm_ids: Sequence[str], now: int) -> int:
        """Write down that what ran in instances of which nobody tells any more has ended."""
        direct = InvocationRow.kind == "direct", InvocationRow.state == InvocationState.RUNNING
        query = select(InvocationRow.id).where(*direct, InvocationRow.vm_id.in_(vm_ids))
        return await self._interrupt(session, list(await session.scalars(query)), now)

    async def interrupt_lost(self, session: AsyncSession, now: int) -> int:
        """The same for requests of long ago whose instances are lent to nobody."""
        lent = select(InstanceRow.vm_id).where(InstanceRow.leased_by.is_not(None))
        query = select(InvocationRow.id).where(
            InvocationRow.kind == "direct",
            InvocationRow.state == InvocationState.RUNNING,
            InvocationRow.deadline_ms < now - LATE_MS,
            InvocationRow.vm_id.not_in(lent),
        )
        return await self._interrupt(session, list(await session.scalars(query)), now)

    async def canceled(self, session: AsyncSession) -> list[str]:
        """Return which requests under way somebody wants to be given up."""
        query = select(InvocationRow.id).where(
            InvocationRow.kind == "direct",
            InvocationRow.state == InvocationState.RUNNING,
            InvocationRow.cancel,
        )
        return list(await session.scalars(query))

    async def _interrupt(self, session: AsyncSession, ids: list[str], now: int) -> int:
        if not ids:
            return 0
        changed = list(
            await session.scalars(
                update(InvocationRow)
                .where(InvocationRow.id.in_(ids), InvocationRow.state == InvocationState.RUNNING)
                .values(
                    state=InvocationState.FAILED,
                    reason=Reason.INTERRUPTED,
                    vm_id=None,
                    deadline_ms=None,
                    ended_ms=now,
                    updated_ms=not_before(InvocationRow.updated_ms, now),
                )
                .returning(InvocationRow.id)
            )
        )
        await session.execute(
            update(AttemptRow)
            .where(AttemptRow.invocation_id.in_(ids), AttemptRow.outcome.is_(None))
            .values(outcome=Reason.INTERRUPTED, ended_ms=now)
        )
        await self._have_ended(session, changed)
        for each in ids:
            self._endings.tell(each)
        return len(changed)

    async def _have_ended(self, session: AsyncSession, ids: list[str]) -> None:
        if ids:
            await session.run_sync(lambda session: self._on_end(session, ids))

    def _row(self, visit: Visit) -> dict[str, object]:
        state = InvocationState(visit.state) if visit.state else InvocationState.RUNNING
        event = {
            "specversion": "1.0",
            "id": visit.id,
            "source": f"/functions/{visit.function_id}",
            "type": f"cakework.{visit.trigger}",
            "data": {"method": visit.method, "path": visit.path},
        }
        told = json.dumps(event).encode()
        error = storable(json.dumps(visit.error)) if visit.error else None
        over = state in FINAL
        sealed = self._sealer.seal(told, f"event:{visit.id}")
        result = None
        if visit.result is not None:
            kept = json.dumps({"json": visit.result}).encode()
            result = self._sealer.seal(kept, f"result:{visit.id}")
        return {
            "id": visit.id,
            "account_id": visit.account_id,
            "function_id": visit.function_id,
            "user_id": "",
            "trigger": visit.trigger,
            "kind": "direct",
            "state": state,
            "reason": visit.reason,
            "version": visit.version,
            "pinned": False,
            "attempt": 1,
            "unreached": 0,
            "max_attempts": 1,
            "event_sealed": sealed,
            "event_bytes": len(told),
            "kept_bytes": ROW_BYTES + len(sealed) + len(result or b"") + len(error or ""),
            "result_sealed": result,
            "result_type": None if result is None else "application/json",
            "error": error,
            "vm_id": None if over else visit.vm_id,
            "deadline_ms": None if over else visit.deadline_ms,
            "cancel": False,
            "next_ms": visit.began_ms,
            "depth": 0,
            "ended_ms": visit.ended_ms if over else None,
            "created_ms": visit.began_ms,
            "updated_ms": max(visit.began_ms, visit.ended_ms or 0),
        }


def _attempt(visit: Visit) -> dict[str, object]:
    ended_ms = visit.ended_ms if visit.state is not None else None
    return {
        "invocation_id": visit.id,
        "attempt": 1,
        "version": visit.version,
        "vm_id": visit.vm_id,
        "start": visit.start,
        "outcome": (visit.reason or SUCCEEDED) if visit.state is not None else None,
        "duration_ms": None if ended_ms is None else max(0, ended_ms - visit.began_ms),
        "started_ms": visit.began_ms,
        "ended_ms": ended_ms,
    }


def _is_sqlite(session: AsyncSession) -> bool:
    return session.get_bind().dialect.name == "sqlite"
