"""How an attempt begins: an instance is taken and the invocation's row claimed, in one transaction.

So work that finds an instance free is accepted and begun at once; what finds none, or finds others
of its function waiting, is accepted and waits for the dispatch loop.
"""

from dataclasses import dataclass

from sqlalchemy import literal, select, update
from sqlalchemy.orm import Session

from cakework.domain.functions import FunctionSettings, Isolation, isolation_of
from cakework.domain.ids import VmId
from cakework.domain.invocations import STARTABLE, TEST, InvocationState
from cakework.server.clock import Clock
from cakework.server.functions.functions import Functions
from cakework.server.functions.instances import Instances, Wanted
from cakework.server.functions.leases import CLAIM_MS
from cakework.server.functions.secrets import Sees, View, sees, view_of
from cakework.server.store.function_models import (
    BY_TURN,
    WAITS,
    AttemptRow,
    FunctionRow,
    InstanceRow,
    InvocationRow,
)
from cakework.server.store.values import not_before


@dataclass(frozen=True, slots=True)
class Job:
    """An attempt that has its instance. ``alone``: that serves no other after it. ``begun``: its
    handler may have been reached before, by a process that is gone."""

    row: InvocationRow
    settings: FunctionSettings
    alone: bool
    begun: bool = False

    @property
    def vm_id(self) -> VmId:
        """The instance."""
        return VmId(self.row.vm_id or "")

    @property
    def key(self) -> tuple[str, int]:
        """What tells it from every other attempt."""
        return self.row.id, self.row.attempt


class Starts:
    """Begins attempts, within transactions, as the process ``server_id``."""

    def __init__(
        self, server_id: str, functions: Functions, instances: Instances, clock: Clock
    ) -> None:
        self._server_id = server_id
        self._functions = functions
        self._instances = instances
        self._clock = clock

    def of_new(self, session: Session, function: FunctionRow, row: InvocationRow) -> Job | None:
        """Begin the first attempt of an invocation that is about to be recorded; None: it waits."""
        settings = self._functions.settings(function)
        version = row.version if row.pinned else function.live_version
        view = view_of(session, sees_for(function, row.user_id, settings))
        wanted = wanted_by(function, version or 0, row.user_id, settings, view)
        if view.fault is not None or row.next_ms > self._clock():
            return None
        if self._others_wait(session, wanted):
            return None
        instance = self._instances.take(session, wanted)
        if instance is None:
            return None
        for name, value in self._claimed(instance, settings).items():
            setattr(row, name, value)
        row.attempt = 1
        session.add(row)
        session.flush()
        self._record(session, row, instance)
        return Job(row, settings, wanted.isolation is Isolation.INVOCATION)

    def of_waiting(
        self,
        session: Session,
        invocation_id: str,
        instance: InstanceRow,
        wanted: Wanted,
        settings: FunctionSettings,
    ) -> Job | None:
        """Begin the next attempt of an invocation in ``instance``, which was taken for it.

        None: somebody else was there before, and the instance is given back.
        """
        updated = not_before(InvocationRow.updated_ms, self._clock())
        row = session.scalar(
            update(InvocationRow)
            .where(InvocationRow.id == invocation_id, InvocationRow.state.in_(STARTABLE))
            .values(
                **self._claimed(instance, settings),
                attempt=InvocationRow.attempt + 1,
                updated_ms=updated,
            )
            .returning(InvocationRow)
            .execution_options(populate_existing=True)
        )
        if row is None:
            self._instances.give_back(session, instance.vm_id, again=True)
            return None
        self._record(session, row, instance)
        return Job(row, settings, wanted.isolation is Isolation.INVOCATION)

    def _claimed(self, instance: InstanceRow, settings: FunctionSettings) -> dict[str, object]:
        now = self._clock()
        return {
            "state": InvocationState.RUNNING,
            "version": instance.version,
            "vm_id": instance.vm_id,
            "deadline_ms": now + settings.queued_timeout_s * 1000,
            "claimed_by": self._server_id,
            "claimed_until_ms": now + CLAIM_MS,
        }

    def _record(self, session: Session, row: InvocationRow, instance: InstanceRow) -> None:
        session.add(
            AttemptRow(
                invocation_id=row.id,
                attempt=row.attempt,
                version=instance.version,
                vm_id=instance.vm_id,
                start="warm" if instance.served > 1 else "fork",
                started_ms=self._clock(),
            )
        )

    def _others_wait(self, session: Session, wanted: Wanted) -> bool:
        """Whether what came before waits for such an instance."""
        return self.waits(session, wanted.function_id, wanted.of_user)

    def waits(self, session: Session, function_id: str, of_user: str) -> bool:
        """Whether something is due that an instance of a function may serve; ``of_user`` is whose
        alone that is."""
        query = (
            select(literal(1))
            .select_from(InvocationRow)
            .where(
                WAITS,
                InvocationRow.trigger != TEST,
                InvocationRow.function_id == function_id,
                InvocationRow.next_ms <= self._clock(),
            )
        )
        if of_user:
            query = query.where(InvocationRow.user_id == of_user)
        query = query.with_hint(InvocationRow, BY_TURN, "sqlite")
        return session.scalar(query.limit(1)) is not None


def wanted_by(
    function: FunctionRow, version: int, user_id: str, settings: FunctionSettings, view: View
) -> Wanted:
    """Return what an instance has to be for work of ``user_id``, with the secrets of ``view``."""
    isolation = isolation_of(settings, function.user_id, user_id)
    concurrency = 1 if isolation is Isolation.INVOCATION else settings.concurrency
    made_with = view.made_with(settings)
    return Wanted(function.id, version, isolation, user_id, concurrency, made_with)


def sees_for(function: FunctionRow, user_id: str, settings: FunctionSettings) -> Sees:
    """Return who the instance is that work of ``user_id`` needs."""
    alone = isolation_of(settings, function.user_id, user_id) is not Isolation.FUNCTION
    return sees(function, settings, user_id if alone else "")
