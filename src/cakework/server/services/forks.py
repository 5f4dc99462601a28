"""Forks: one cached VM's snapshot started as many VMs at once, each with a life of its own.

All or none: the records of one request share a batch and are made in one transaction, and as
soon as one of them cannot be had, all of the batch are wanted destroyed, in the transaction that
says so. What a crash leaves is carried on with, or ended, by the reconciling loop.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack

from cakework.domain.errors import CakeworkError, Conflict, NotFound, Unavailable
from cakework.domain.ids import AccountId, VmId, new_vm_id
from cakework.domain.steps import Step
from cakework.domain.vms import Refuse, VmRequest, VmState, decide
from cakework.faults import step
from cakework.server.services.facts import States
from cakework.server.services.forked import condemn, made_together
from cakework.server.services.new_vms import VmRules
from cakework.server.services.vm_states import life_of
from cakework.server.services.vms import Vms
from cakework.server.store.database import Database
from cakework.server.store.models import VmRow

AT_ONCE = 8
"""Orders given at a time: enough to keep a host busy, few enough to leave room for others."""

_LOST = (
    "The snapshot is not on the host any more, or does not fit it; it is being made anew. Fork the "
    "VM once getVm says that it is made."
)


class Forks:
    """Starts VMs from the snapshots of others."""

    def __init__(
        self,
        database: Database,
        vms: Vms,
        states: States,
        rules: VmRules,
        hint: Callable[[], None],
    ) -> None:
        """Keep records in ``database`` and have the node run them through ``vms``.

        ``hint`` says that a snapshot is to be made.
        """
        self._database = database
        self._vms = vms
        self._states = states
        self._rules = rules
        self._hint = hint

    async def fork(
        self, account: AccountId, parent: VmId, count: int, token: str | None = None
    ) -> list[VmRow]:
        """Start ``count`` VMs from the snapshot of ``parent``; returns their records.

        ``token`` names an idempotent request: what it made before is taken up again.

        Raises:
            NotFound: the account has no such VM.
            Conflict: it has no snapshot to start from now; or the node refused.
            QuotaExceeded: the account may not start so many more.
            NoRoom, Unavailable: not all could be started, so none is left.
        """
        batch = token or secrets.token_hex(16)
        made = await self._made(batch)
        ids = [VmId(row.id) for row in made] or sorted(new_vm_id() for _ in range(count))
        async with AsyncExitStack() as stack:
            for vm_id in ids:
                await stack.enter_async_context(self._vms.claims.hold(vm_id))
            rows = await (self._made(batch) if made else self._record(account, parent, ids, batch))
            step(Step.VM_RECORDED)
            return await self._start(rows, batch)

    async def _made(self, batch: str) -> list[VmRow]:
        async with self._database.reading() as session:
            return await made_together(session, batch)

    async def _record(
        self, account: AccountId, parent: VmId, ids: Sequence[VmId], batch: str
    ) -> list[VmRow]:
        async with self._database.writing() as session:
            row = await session.get(VmRow, parent, with_for_update={"read": True})
            if row is None or row.account_id != account:
                raise NotFound(f"There is no VM {parent}.")
            if isinstance(decision := decide(life_of(row), VmRequest.FORK), Refuse):
                raise Conflict(decision.reason)
            await self._rules.admission.check_started(session, account, len(ids))
            rows = [self._rules.fork_row(row, vm_id, batch) for vm_id in ids]
            session.add_all(rows)
        self._states.vms.tell(rows)
        return rows

    async def _start(self, rows: Sequence[VmRow], batch: str) -> list[VmRow]:
        turns = asyncio.Semaphore(AT_ONCE)
        failed = any(row.wanted == VmState.DESTROYED for row in rows)
        error: CakeworkError = Unavailable("The forks were interrupted; ask again.")

        async def start(row: VmRow) -> VmRow:
            nonlocal failed, error
            async with turns:
                if failed or row.state != VmState.CREATED:
                    return row
                try:
                    return (await self._vms.give_order(row)).row
                except CakeworkError as reason:
                    failed, error = True, reason
                    return row

        started = await asyncio.gather(*(start(row) for row in rows))
        if not failed:
            return started
        await self._end(batch)
        if isinstance(error.__cause__, NotFound | Conflict):
            await self._make_anew([VmId(row.fork_of) for row in rows if row.fork_of])
            raise Conflict(_LOST) from error
        raise error

    async def _make_anew(self, parents: Sequence[VmId]) -> None:
        async with self._database.writing() as session:
            found = [await self._states.snapshots.lost(session, each) for each in set(parents)]
        self._states.vms.tell(found)
        self._hint()

    async def _end(self, batch: str) -> None:
        """End what was started of a batch; what cannot be ended now is left to the loop."""
        async with self._database.writing() as session:
            await condemn(session, batch)
        turns = asyncio.Semaphore(AT_ONCE)

        async def end(row: VmRow) -> None:
            async with turns:
                await self._vms.destroy(row)

        left = [row for row in await self._made(batch) if row.state != VmState.DESTROYED]
        outcomes = await asyncio.gather(*(end(row) for row in left), return_exceptions=True)
        if any(isinstance(outcome, BaseException) for outcome in outcomes):
            self._vms.hint()
