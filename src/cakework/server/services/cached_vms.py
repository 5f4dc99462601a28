"""Cached VMs: made once, then started and stopped again and again, until they are destroyed.

Each start is a run of its own on the node. A run is counted on record first, then ordered, so
that whatever comes of an earlier one is told apart from it. A start that the node does not
answer is stopped again; the reconciling loop sees to that.
"""

from collections.abc import Callable

from cakework.domain.errors import Conflict, NotFound, Unavailable
from cakework.domain.ids import AccountId, VmId, new_vm_id
from cakework.domain.steps import Step
from cakework.domain.vms import EndCause, Ending, Ignore, Refuse, VmRequest, VmState, decide
from cakework.faults import step
from cakework.server.routers.gates import Gates
from cakework.server.services.new_vms import NewVm, VmRules
from cakework.server.services.vm_states import VmStates, life_of
from cakework.server.services.vms import Started, Vms, ending_of
from cakework.server.store.database import Database
from cakework.server.store.models import VmRow

SUSPENDED = "Stopped on request, with its memory kept."
LOST = "The host does not have this VM any more."


class CachedVms:
    """Makes, starts and stops cached VMs; they are found, listed and ended like any other."""

    def __init__(
        self,
        database: Database,
        vms: Vms,
        states: VmStates,
        rules: VmRules,
        gates: Gates,
        hint: Callable[[], None],
    ) -> None:
        """Keep records in ``database`` and have the node run them through ``vms``.

        ``gates`` keep requests from a VM that is being put to rest;
        ``hint`` says that there may be a snapshot to be made.
        """
        self._database = database
        self._vms = vms
        self._states = states
        self._rules = rules
        self._gates = gates
        self._hint = hint

    async def cache(self, account: AccountId, new: NewVm, token: str | None = None) -> VmRow:
        """Make a cached VM; returns its record, ``stopped``. The node gets to know at its start.

        Raises:
            NotFound: the account has no such image.
            QuotaExceeded: the account has as many cached VMs as it may.
        """
        vm_id = await self._vms.made_by(token) or new_vm_id()
        async with self._database.writing() as session:
            if token is not None and (made := await session.get(VmRow, vm_id)) is not None:
                return made
            await self._rules.admission.check_image(session, account, new.image_id)
            await self._rules.admission.check_cached(session, account)
            await self._rules.admission.check_volume(session, account, new.volume_gb)
            row = self._rules.new_cached_row(account, vm_id, new)
            row.request_token = token
            session.add(row)
        self._states.tell([row])
        self._hint()
        return row

    async def start(self, account: AccountId, vm_id: VmId, token: str | None = None) -> Started:
        """Start a cached VM; one that runs is left as it is.

        Raises:
            NotFound: the account has no such VM.
            Conflict: it is not a cached one, or destroyed; or the node refused it.
            QuotaExceeded: the account has as many VMs started as it may.
            NoRoom: the host cannot fit it; it stays stopped.
            Unavailable: the node did not answer; it will be stopped.
        """
        async with self._vms.claims.hold(vm_id):
            row = await self._vms.get(account, vm_id)
            done = token is not None and row.start_token == token and row.state != VmState.CREATED
            match decide(life_of(row), VmRequest.START_CACHED):
                case Refuse(reason):
                    raise Conflict(reason)
                case decision if done or isinstance(decision, Ignore):
                    return Started(row, {})
                case _:
                    return await self._vms.give_order(await self._begin(account, row, token))

    async def stop(self, account: AccountId, vm_id: VmId) -> VmRow:
        """Stop a cached VM; one that is stopped is left as it is. Its volume stays.

        Raises:
            NotFound: the account has no such VM.
            Conflict: it is not a cached one, or about to be destroyed.
            Unavailable: the node did not answer; the VM is stopped once it does.
        """
        async with self._vms.claims.hold(vm_id):
            row = await self._vms.get(account, vm_id)
            match decide(life_of(row), VmRequest.STOP_CACHED):
                case Refuse(reason):
                    raise Conflict(reason)
                case Ignore():
                    return row
                case _:
                    await self._vms.want(vm_id, VmState.STOPPED)
            try:
                return await self.end_run(row)
            except Unavailable:
                self._vms.hint()
                raise

    async def suspend(self, account: AccountId, vm_id: VmId, reason: str = SUSPENDED) -> VmRow:
        """Stop a cached VM and keep its memory, so that its next start goes on where it was.

        One that is stopped is left as it is. If its memory cannot be kept, it goes on.

        Raises:
            NotFound: the account has no such VM.
            Conflict: it is not a cached one, or not started, or its memory cannot be kept.
            NoRoom: the host has no room for its memory now.
            QuotaExceeded: the account's snapshots take as much of the host as they may.
            Unavailable: the node did not answer; the VM goes on, or is stopped in this way.
        """
        async with self._vms.claims.hold(vm_id):
            row = await self._vms.get(account, vm_id)
            match decide(life_of(row), VmRequest.SUSPEND):
                case Refuse(why):
                    raise Conflict(why)
                case Ignore():
                    return row
                case _:
                    return await self._keep(row, reason)

    async def end_run(self, row: VmRow) -> VmRow:
        """Have the node end a cached VM's run, and record it stopped."""
        vm_id = VmId(row.id)
        report = await self._vms.end_on_node(vm_id)
        async with self._database.writing() as session:
            ending = ending_of(report) if report else Ending(LOST, cause=EndCause.LOST)
            stopped = await self._states.stopped(
                session, vm_id, row.run, ending, log_complete=report is None
            )
        if stopped is None:
            raise NotFound(f"There is no VM {vm_id}.")
        self._states.tell([stopped])
        return stopped

    async def _begin(self, account: AccountId, row: VmRow, token: str | None) -> VmRow:
        """Return the record of the run to give the order for: ``created``."""
        if row.wanted == VmState.STOPPED and row.state != VmState.STOPPED:
            row = await self.end_run(row)
        if row.state == VmState.CREATED:
            return row
        async with self._database.writing() as session:
            await self._rules.admission.check_started(session, account)
            begun = await self._states.begin_run(session, VmId(row.id), token)
        if begun is None:
            raise Conflict("The VM was changed by another request; try again.")
        self._states.tell([begun])
        step(Step.VM_RUN_BEGUN)
        return begun

    async def _keep(self, row: VmRow, reason: str) -> VmRow:
        vm_id = VmId(row.id)
        async with self._database.writing() as session:
            await self._states.resting(session, vm_id, row.run, reason)
        async with self._gates.shut(vm_id):
            report = await self._vms.suspend_on_node(vm_id)
            async with self._database.writing() as session:
                stopped = await self._states.stopped(session, vm_id, row.run, ending_of(report))
            self._states.tell([stopped])
        if stopped is None:
            raise NotFound(f"There is no VM {vm_id}.")
        return stopped
