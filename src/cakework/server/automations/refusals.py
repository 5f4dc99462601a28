"""What came in at webhooks and was not signed: counted, and told to the owner; nothing is kept.

Whoever finds a door may send as much as they like. So refusals are counted in memory, and written
down once a second for each trigger, however many there were. Those of the last second are lost if
the server is killed.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import case, update
from sqlalchemy.orm import Session

from cakework.server.clock import Clock
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.database import Database

PERIOD_S = 1.0
WHY_CHARS_MAX = 200
COUNT_MAX = 2_000_000_000
"""What a column holds; who was sent as much need not know how much more."""
AT_ONCE = 100


@dataclass(slots=True)
class _Refused:
    """Of one trigger: how many since it was last written, why the last, and when."""

    count: int
    why: str
    at_ms: int


class Refusals:
    """Counts refusals. ``one_pass`` writes them down."""

    def __init__(self, database: Database, clock: Clock) -> None:
        """Count in rows of triggers in ``database``."""
        self._database = database
        self._clock = clock
        self._counted: dict[str, _Refused] = {}

    def count(self, trigger_id: str, why: str) -> None:
        """Count one more."""
        before = self._counted.get(trigger_id)
        count = 1 if before is None else before.count + 1
        self._counted[trigger_id] = _Refused(count, why[:WHY_CHARS_MAX], self._clock())

    async def one_pass(self) -> None:
        """Write down what was counted since the last pass; what could not be is counted on."""
        while some := list(self._counted.items())[:AT_ONCE]:
            for trigger_id, _ in some:
                del self._counted[trigger_id]
            try:
                await self._database.together(lambda session, some=some: _write(session, some))
            except BaseException:
                self._take_back(some)
                raise

    def _take_back(self, some: Sequence[tuple[str, _Refused]]) -> None:
        for trigger_id, refused in some:
            later = self._counted.setdefault(trigger_id, refused)
            if later is not refused:
                later.count += refused.count


def _write(session: Session, some: Sequence[tuple[str, _Refused]]) -> None:
    for trigger_id, refused in some:
        counted = TriggerRow.refused + min(refused.count, COUNT_MAX // 100)
        session.execute(
            update(TriggerRow)
            .where(TriggerRow.id == trigger_id)
            .values(
                refused=case((TriggerRow.refused < COUNT_MAX, counted), else_=TriggerRow.refused),
                refused_why=refused.why,
                refused_ms=refused.at_ms,
            )
            .execution_options(synchronize_session=False)
        )
