"""Gatherings: events that become one invocation, whose event has a list of them as its data.

The first is in the invocation itself, each further one is put beside it, sealed. When it is to
start they are put together; so they are where it has ended before that, and nothing is lost.
"""

import json
from collections.abc import Sequence, Set
from dataclasses import dataclass
from typing import cast

from sqlalchemy import delete, inspect, select
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cakework.server.store.flow_models import MemberRow
from cakework.server.store.function_models import ROW_BYTES, InvocationRow
from cakework.server.store.sealing import Sealer

BYTES_MAX = 1 << 20
"""Of the events of one, together; one alone has as many at most."""
TYPE = "cakework.batch"


@dataclass(frozen=True, slots=True)
class Gathered:
    """What was gathered for an invocation: ``count`` events, and the one of them all, sealed."""

    invocation_id: str
    count: int
    event_sealed: bytes
    event_bytes: int

    def put(self, session: Session, row: InvocationRow) -> None:
        """Make it the event of its invocation."""
        row.event_sealed, row.event_bytes = self.event_sealed, self.event_bytes
        row.kept_bytes = ROW_BYTES + len(self.event_sealed)
        session.execute(delete(MemberRow).where(MemberRow.invocation_id == row.id))


@dataclass(frozen=True, slots=True)
class Parts:
    """What is to be put together: an invocation's own event, and the others, as they are sealed."""

    invocation_id: str
    function_id: str
    own: bytes
    others: Sequence[tuple[int, bytes]]


class Gatherings:
    """Gathers events."""

    def __init__(self, sealer: Sealer) -> None:
        self._sealer = sealer

    def add(self, session: Session, into: InvocationRow, number: int, row: InvocationRow) -> None:
        """Put the event of ``row`` beside those of another, as its ``number``th, from 1."""
        if "event_sealed" in inspect(row).unloaded:
            query = select(InvocationRow.event_sealed).where(InvocationRow.id == row.id)
            sealed = session.scalars(query).one()
        else:
            sealed = row.event_sealed
        event = self._sealer.unseal(sealed, f"event:{row.id}")
        again = self._sealer.seal(event, _name(into.id, number))
        session.add(
            MemberRow(
                invocation_id=into.id,
                number=number,
                account_id=into.account_id,
                event_sealed=again,
            )
        )
        into.kept_bytes += len(again)
        into.depth = max(into.depth, row.depth)

    def rest(self, row: InvocationRow, ids: Set[str]) -> bytes | None:
        """Return the event of an invocation with those alone that have ``ids``, sealed; None: it is
        none in which any were gathered, or these are none of them."""
        event = json.loads(self._sealer.unseal(row.event_sealed, f"event:{row.id}"))
        data = event.get("data")
        if event.get("type") != TYPE or not isinstance(data, list):
            return None
        gathered = cast("list[object]", data)
        rest = [each for each in gathered if _id(each) in ids]
        if not rest:
            return None
        whole = json.dumps({**event, "data": rest}).encode()
        return self._sealer.seal(whole, f"event:{row.id}")

    async def parts(self, session: AsyncSession, invocation_id: str) -> Parts | None:
        """Return what is to be put together for an invocation; None: there is no such."""
        of = select(InvocationRow.function_id, InvocationRow.event_sealed)
        found = (await session.execute(of.where(InvocationRow.id == invocation_id))).first()
        if found is None:
            return None
        members = select(MemberRow.number, MemberRow.event_sealed)
        members = members.where(MemberRow.invocation_id == invocation_id)
        others = [(each[0], each[1]) for each in await session.execute(members.order_by("number"))]
        return Parts(invocation_id, found[0], found[1], others)

    def together(self, parts: Parts, time: str) -> Gathered:
        """Return an event of all, as of ``time``; takes as long as a megabyte takes to be read."""
        own = self._sealer.unseal(parts.own, f"event:{parts.invocation_id}")
        told = [own]
        for number, sealed in parts.others:
            told.append(self._sealer.unseal(sealed, _name(parts.invocation_id, number)))
        event = {
            "specversion": "1.0",
            "id": parts.invocation_id,
            "source": f"/functions/{parts.function_id}",
            "type": TYPE,
            "time": time,
        }
        # As they are: written anew, text that is not ASCII could have three times as many bytes.
        whole = json.dumps(event).encode()[:-1] + b', "data": [' + b", ".join(told) + b"]}"
        sealed = self._sealer.seal(whole, f"event:{parts.invocation_id}")
        return Gathered(parts.invocation_id, len(told), sealed, len(whole))


def failed_of(told: object) -> set[str]:
    """Return the ids of events that a handler says have failed: ``{"failed": [ids]}``."""
    if not isinstance(told, dict):
        return set()
    fields = cast("dict[str, object]", told)
    ids = fields.get("failed") if len(fields) == 1 else None
    if not isinstance(ids, list):
        return set()
    return {each for each in cast("list[object]", ids) if isinstance(each, str)}


def _id(event: object) -> str | None:
    found = cast("dict[str, object]", event).get("id") if isinstance(event, dict) else None
    return found if isinstance(found, str) else None


def _name(invocation_id: str, number: int) -> str:
    return f"member:{invocation_id}:{number}"
