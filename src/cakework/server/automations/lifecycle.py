"""What happens on the platform goes to lifecycle triggers, and how a trigger's work ends to that.

    builds, VMs, versions, invocations end ──▶ cakework.<what>.<how> ──▶ the trigger's function

Each is taken in the transaction that writes what it tells of: so once, and only if that counts. A
trigger whose function keeps failing pauses itself (``pause_after``); that its work succeeds again
is told, too. What these triggers' own work fails at is told to none of them: three that listen to
each other's failures would tell of twice as many each time.

Whatever cannot be told, what it would have told of counts all the same.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import structlog
from sqlalchemy import Row, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import Session

from cakework.domain.builds import BuildStatus
from cakework.domain.functions import RetryPolicy, VersionState
from cakework.domain.ids import AccountId, FunctionId, UserId
from cakework.domain.invocations import DEAD, FAILURE, TEST, InvocationState
from cakework.domain.patterns import Pattern, matches_type
from cakework.domain.triggers import LIFECYCLE, LifecycleConfig, TriggerType
from cakework.domain.vms import Ending, VmRole
from cakework.server.functions.invocations import WITHOUT_BYTES, Invocations, NewInvocation
from cakework.server.services.announcements import Announcements
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.function_models import FunctionRow, InvocationRow, VersionRow
from cakework.server.store.models import BuildRow, VmRow
from cakework.server.store.values import storable
from cakework.server.webhooks.outbox import Shapes

PATTERNS_MOST = 1_000
"""Filters that are kept compiled."""
Json = dict[str, Any]
_Trigger = Row[str, str, str, str, str | None, str | None]
_UNTOLD = frozenset({TEST, FAILURE, TriggerType.LIFECYCLE.value})
"""What makes invocations whose ends are told to nobody."""
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Told:
    """What happened: of whose, to what, and what is to be said of it."""

    account_id: str
    user_id: str
    type: str
    subject: str
    data: Callable[[], Json]
    depth: int = 0
    cause_id: str | None = None


class Lifecycle:
    """Takes note of what happens, as :class:`Announcements` are told of it."""

    def __init__(
        self,
        invocations: Invocations,
        shapes: Shapes,
        others: Announcements,
        clock: Callable[[], int],
    ) -> None:
        """Show what happened as ``shapes`` do; ``others`` are told of triggers that pause."""
        self._invocations = invocations
        self._shapes = shapes
        self._others = others
        self._clock = clock

    async def build_ended(self, session: AsyncSession, row: BuildRow) -> None:
        """Tell that a build has succeeded or failed."""
        how = "succeeded" if row.status == BuildStatus.SUCCEEDED else "failed"
        data = lambda: self._shapes.build(row)  # noqa: E731
        await self._tell(session, _Told(row.account_id, "", f"build.{how}", row.id, data))

    async def vm_started(self, session: AsyncSession, row: VmRow) -> None:
        """Tell that the program in a VM was started."""
        await self._tell_vm(session, "vm.started", row, {})

    async def vm_stopped(self, session: AsyncSession, row: VmRow, ending: Ending) -> None:
        """Tell that a run of a VM is over."""
        how: Json = {"reason": storable(ending.reason)}
        if ending.exit_code is not None:
            how["exitCode"] = ending.exit_code
        await self._tell_vm(session, "vm.stopped", row, how)

    async def vm_destroyed(self, session: AsyncSession, row: VmRow) -> None:
        """Tell that a VM is ended for good."""
        await self._tell_vm(session, "vm.destroyed", row, {})

    async def version_ended(self, session: AsyncSession, row: VersionRow) -> None:
        """Tell that a version of a function is ready, or has failed."""
        function = await session.get(FunctionRow, row.function_id)
        if function is None:
            return
        how = "deployed" if row.state == VersionState.READY else "failed"
        told = _Told(
            function.account_id,
            function.user_id,
            f"function.{how}",
            function.id,
            lambda: self._shapes.version(row),
        )
        await self._tell(session, told)

    def invocations_ended(self, session: Session, ids: Sequence[str]) -> None:
        """Tell which invocations failed for good, and which are the first of their trigger's to
        succeed after that."""
        session.flush()
        for invocation_id in ids:
            row = session.get(InvocationRow, invocation_id, options=WITHOUT_BYTES)
            if row is None or row.kind != "queued" or row.trigger == TEST:
                continue
            told = row.trigger not in _UNTOLD
            if row.state in DEAD:
                if told:
                    self._fire(session, self._of_invocation(session, row, "invocation.failed"))
                self._failed(session, row)
            elif row.state == InvocationState.SUCCEEDED and self._recovered(session, row) and told:
                self._fire(session, self._of_invocation(session, row, "invocation.recovered"))

    def trigger_paused(self, session: Session, row: TriggerRow) -> None:
        """Tell that a trigger has paused itself."""
        data = lambda: self._shapes.trigger(row)  # noqa: E731
        self._fire(session, _Told(row.account_id, row.user_id, "trigger.paused", row.id, data))

    def _failed(self, session: Session, row: InvocationRow) -> None:
        """Count a failure of a trigger's, and pause it where that is one too many."""
        if row.trigger_id is None:
            return
        trigger = session.scalar(
            update(TriggerRow)
            .where(TriggerRow.id == row.trigger_id)
            .values(failures=TriggerRow.failures + 1, failing=True)
            .returning(TriggerRow)
            .execution_options(populate_existing=True)
        )
        if trigger is None or trigger.pause_after is None or trigger.paused_reason is not None:
            return
        if trigger.enabled and trigger.failures >= trigger.pause_after:
            trigger.paused_reason = f"{trigger.failures} invocations in a row failed for good."
            trigger.next_ms = None
            trigger.updated_ms = max(trigger.updated_ms, self._clock())
            session.flush()
            self.trigger_paused(session, trigger)
            self._others.trigger_paused(session, trigger)

    def _recovered(self, session: Session, row: InvocationRow) -> bool:
        """Say whether it is the first success of its trigger's after a failure."""
        if row.trigger_id is None:
            return False
        recovered = session.scalar(
            update(TriggerRow)
            .where(TriggerRow.id == row.trigger_id, TriggerRow.failing)
            .values(failures=0, failing=False)
            .returning(TriggerRow.id)
        )
        return recovered is not None

    def _of_invocation(self, session: Session, row: InvocationRow, kind: str) -> _Told:
        return _Told(
            row.account_id,
            row.user_id,
            kind,
            row.id,
            lambda: self._shapes.invocations(session, [row.id])[row.id],
            row.depth + 1,
            row.id,
        )

    async def _tell_vm(self, session: AsyncSession, kind: str, row: VmRow, how: Json) -> None:
        if row.role == VmRole.OWN:
            data = lambda: self._shapes.vm(row) | how  # noqa: E731
            await self._tell(session, _Told(row.account_id, "", kind, row.id, data))

    async def _tell(self, session: AsyncSession, told: _Told) -> None:
        await session.run_sync(lambda session: self._fire(session, told))

    def _fire(self, session: Session, told: _Told) -> None:
        """Have the triggers that want it make an invocation each.

        Where as much waits as may, one makes none: what happened has happened all the same.
        """
        try:
            wanted = self._wanted(session, told)
            if wanted:
                with session.begin_nested():
                    self._enter(session, wanted, told)
        except Exception as error:
            _log.warning(
                "lifecycle.untold", type=told.type, subject=told.subject, detail=str(error)
            )

    def _wanted(self, session: Session, told: _Told) -> list[tuple[_Trigger, Json]]:
        """Return the triggers that want to be told, each with its event."""
        row = TriggerRow
        query = select(row.id, row.function_id, row.user_id, row.config, row.filter, row.retry)
        query = query.where(
            row.account_id == told.account_id,
            row.type == TriggerType.LIFECYCLE,
            row.enabled,
            row.paused_reason.is_(None),
            row.user_id.in_({"", told.user_id}),
        )
        kind = LIFECYCLE + told.type
        triggers = [each for each in session.execute(query) if _wants(each.config, kind)]
        if not triggers:
            return []
        event = {
            "type": kind,
            "source": "/cakework",
            "subject": told.subject,
            "time": self._shapes.time(self._clock()),
            "data": told.data(),
        }
        return [(each, event) for each in triggers if _matches(each.filter, event)]

    def _enter(
        self, session: Session, wanted: Sequence[tuple[_Trigger, Json]], told: _Told
    ) -> None:
        for trigger, event in wanted:
            retry = trigger.retry
            new = NewInvocation(
                event,
                UserId(trigger.user_id or told.user_id),
                TriggerType.LIFECYCLE,
                trigger_id=trigger.id,
                retry=None if retry is None else RetryPolicy.model_validate_json(retry),
                depth=told.depth,
                cause_id=told.cause_id,
            )
            account, function = AccountId(told.account_id), FunctionId(trigger.function_id)
            self._invocations.enter(session, account, function, new)
        session.flush()


def _wants(config: str, kind: str) -> bool:
    types = LifecycleConfig.model_validate_json(config).types
    return any(matches_type(each, kind) for each in types)


def _matches(pattern: str | None, event: Json) -> bool:
    return pattern is None or _compiled(pattern).matches(event)


@lru_cache(PATTERNS_MOST)
def _compiled(pattern: str) -> Pattern:
    return Pattern.compile(json.loads(pattern))
