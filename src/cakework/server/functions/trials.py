"""Trials: code that is run once, as an invocation of its own, and of which no version is made.

    taken ──▶ dependencies and runtime are there ──▶ instance, code imported ──▶ attempt ──▶ gone
                                                       └─▶ what it raised: failed

A trial is an invocation that the dispatch loop passes over, and beside it a record of the code.
Once its attempt is begun, that is seen to like any other; its instance serves nothing else.
"""

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog
from sqlalchemy import func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import CakeworkError, QuotaExceeded, TooLarge, Unavailable
from cakework.domain.functions import FunctionSettings, Isolation, Runtime
from cakework.domain.ids import (
    ACCOUNT_ITSELF,
    AccountId,
    FunctionId,
    UserId,
    VmId,
    new_invocation_id,
)
from cakework.domain.invocations import FINAL, STARTABLE, TEST, InvocationState, Reason
from cakework.domain.vms import VmRole
from cakework.server.clock import Clock
from cakework.server.functions.adapter import Adapter, HandlerError, NoAnswer
from cakework.server.functions.attempts import Attempts
from cakework.server.functions.deploys import CLOSING_S, DeployLoop, DoesNot, Waits
from cakework.server.functions.functions import Functions, entry_of, owned
from cakework.server.functions.instances import Instances, Wanted
from cakework.server.functions.invocations import EVENT_BYTES_MAX, Endings, whole_event
from cakework.server.functions.layers import Layers
from cakework.server.functions.leases import CLAIM_MS
from cakework.server.functions.machines import Machines, ParentLost
from cakework.server.functions.secrets import Secrets, sees, view_of
from cakework.server.functions.sources import Source, Sources
from cakework.server.functions.starts import Job
from cakework.server.store.accounts import lock_account
from cakework.server.store.database import Database
from cakework.server.store.function_models import (
    ROW_BYTES,
    AttemptRow,
    FunctionRow,
    InstanceRow,
    InstanceState,
    InvocationRow,
    TrialRow,
)
from cakework.server.store.sealing import SEAL_BYTES, Sealer
from cakework.server.store.values import not_before, storable
from cakework.turns import Turns

PER_ACCOUNT = 5
AT_ONCE = 4
RETRY_AFTER_S = 5
CLAIM_S = 180.0
PATIENCE_MS = 3_600_000
ERROR_CHARS_MAX = 16_384
_log = structlog.stdlib.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class NewTrial:
    """What is to be run: code, and the event it is given."""

    source: Source
    event: dict[str, Any]
    entry: str | None = None
    signature: str | None = None
    fresh: str | None = None
    user_id: UserId = ACCOUNT_ITSELF


class TrialFailed(Exception):
    """A trial came to its end before its handler was reached; ``told`` is what is told of it."""

    def __init__(self, told: HandlerError) -> None:
        super().__init__(told.message)
        self.told = told


class Trials:
    """Takes trials, and sees them to their attempts."""

    def __init__(
        self,
        database: Database,
        server_id: str,
        sealer: Sealer,
        functions: Functions,
        sources: Sources,
        layers: Layers,
        deploys: DeployLoop,
        instances: Instances,
        attempts: Attempts,
        machines: Machines,
        adapter: Adapter,
        endings: Endings,
        secrets: Secrets,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Work as the process ``server_id``; ``hint`` says that there is one more."""
        self._database = database
        self._server_id = server_id
        self._sealer = sealer
        self._functions = functions
        self._sources = sources
        self._layers = layers
        self._deploys = deploys
        self._instances = instances
        self._attempts = attempts
        self._machines = machines
        self._adapter = adapter
        self._endings = endings
        self._secrets = secrets
        self._clock = clock
        self._hint = hint
        self._turns: Turns[str] = Turns(AT_ONCE)
        self._under_way: dict[str, asyncio.Task[None]] = {}

    async def take(
        self, account: AccountId, function_id: FunctionId, new: NewTrial, token: str | None = None
    ) -> InvocationRow:
        """Take a trial; returns the record of its invocation, which is durable then.

        Raises:
            NotFound: the account has no such function.
            InvalidRequest: the source has not what it must have.
            TooLarge: the event.
            QuotaExceeded: the account has as many trials, or as much code, as it may.
        """
        function = await self._functions.get(account, function_id)
        runtime = Runtime(function.runtime)
        entry = entry_of(new.source, runtime, new.entry)
        layer = await asyncio.to_thread(self._layers.of, runtime, new.source, new.fresh)
        sealed = await asyncio.to_thread(self._sources.seal, account, new.source)
        invocation_id, now = new_invocation_id(), self._clock()
        event = json.dumps(whole_event(new.event, invocation_id, function_id, now)).encode()
        if len(event) > EVENT_BYTES_MAX:
            raise TooLarge(f"The event has {len(event)} bytes, and {EVENT_BYTES_MAX} are allowed.")
        async with self._database.writing() as session:
            if token is not None:
                by = select(InvocationRow).where(InvocationRow.request_token == token)
                if (made := await session.scalar(by)) is not None:
                    return made
            await lock_account(session, account)
            await owned(session, account, function_id)
            await _check_count(session, account)
            layer_row = await self._layers.record(session, account, layer)
            await self._sources.keep(session, account, new.source, sealed)
            row = InvocationRow(
                id=invocation_id,
                account_id=account,
                function_id=function_id,
                user_id=new.user_id,
                trigger=TEST,
                kind="queued",
                state=InvocationState.QUEUED,
                version=None,
                pinned=False,
                attempt=0,
                unreached=0,
                max_attempts=1,
                event_sealed=self._sealer.seal(event, f"event:{invocation_id}"),
                event_bytes=len(event),
                kept_bytes=ROW_BYTES + len(event) + SEAL_BYTES,
                cancel=False,
                next_ms=now,
                depth=0,
                # What fails here is no dead letter: who asked is told.
                settled_ms=now,
                request_token=token,
                created_ms=now,
                updated_ms=now,
            )
            session.add(row)
            await session.flush()
            session.add(
                TrialRow(
                    id=invocation_id,
                    account_id=account,
                    function_id=function_id,
                    runtime=runtime,
                    entry=entry,
                    signature=new.signature,
                    source_digest=new.source.digest,
                    layer_id=layer_row.id,
                    fresh=new.fresh,
                    until_ms=now + PATIENCE_MS,
                )
            )
        self._hint()
        return row

    async def one_pass(self) -> None:
        """Have each trial that nobody is at looked at once."""
        query = select(TrialRow, InvocationRow.state).join(
            InvocationRow, InvocationRow.id == TrialRow.id
        )
        async with self._database.reading() as session:
            found = [(row[0], row[1]) for row in await session.execute(query)]
        for row, state in found:
            if state != InvocationState.RUNNING and row.id not in self._under_way:
                task = asyncio.create_task(self._guarded(row))
                self._under_way[row.id] = task
                task.add_done_callback(lambda task, key=row.id: self._ended(key, task))

    async def close(self) -> None:
        """Let go of what is under way: the next process goes on with it."""
        tasks = list(self._under_way.values())
        if not tasks:
            return
        # Most are done soon; what is cancelled in the midst of a transaction takes its connection
        # with it.
        await asyncio.wait(tasks, timeout=CLOSING_S)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        async with self._database.writing() as session:
            await session.execute(
                update(TrialRow)
                .where(TrialRow.claimed_by == self._server_id)
                .values(claimed_by=None, claimed_until_ms=None)
            )

    def _ended(self, key: str, task: asyncio.Task[None]) -> None:
        self._under_way.pop(key, None)
        if not task.cancelled() and (fault := task.exception()) is not None:
            _log.error("trial.fault", invocation_id=key, exc_info=fault)

    async def _guarded(self, row: TrialRow) -> None:
        async with self._turns.hold(row.account_id):
            if not await self._claimed(row):
                return
            try:
                await self._go_on(row)
            except Waits:
                await self._change(row)
            except DoesNot as error:
                await self._fail(row, HandlerError(type="DeployFailed", message=str(error)))
            except TrialFailed as error:
                await self._fail(row, error.told)
            except CakeworkError as error:
                _log.info("trial.waits", invocation_id=row.id, detail=error.detail)
                await self._change(row)

    async def _go_on(self, row: TrialRow) -> None:
        async with self._database.reading() as session:
            there = await session.get(TrialRow, row.id)
            invocation = await session.get(InvocationRow, row.id)
            function = await session.get(FunctionRow, row.function_id)
        if there is None:
            return
        row = there
        if invocation is None or invocation.state in FINAL:
            await self._forget(row)
            return
        if invocation.state not in STARTABLE:
            await self._change(row)
            return
        if function is None:
            await self._end(row, InvocationState.CANCELED, Reason.FUNCTION_DELETED, None)
            return
        if self._clock() > row.until_ms:
            await self._end(row, InvocationState.EXPIRED, Reason.MAX_AGE, None)
            return
        await self._begin(row, function)

    async def _begin(self, row: TrialRow, function: FunctionRow) -> None:
        account, settings = AccountId(row.account_id), self._functions.settings(function)
        runtime = await self._deploys.runtime(account, row, settings)
        if row.vm_id is not None:
            await self._instances.remove(VmId(row.vm_id))
        code = await self._deploys.code_of(account, row, settings)
        who = sees(function, settings, "")
        async with self._database.writing() as session:
            view = await session.run_sync(lambda session: view_of(session, who))
            if view.fault is not None:
                raise TrialFailed(HandlerError(type="SecretsUnavailable", message=view.fault))
            made_with = view.made_with(settings)
            wanted = Wanted(function.id, 0, Isolation.INVOCATION, "", 1, made_with)
            instance = await session.run_sync(
                lambda session: self._instances.reserve(session, wanted)
            )
            await session.execute(
                update(TrialRow).where(TrialRow.id == row.id).values(vm_id=instance.vm_id)
            )
        vm_id = VmId(instance.vm_id)
        try:
            await self._machines.fork(runtime, vm_id, VmRole.INSTANCE, settings.egress)
            if settings.secrets_at_init:
                await self._secrets.give(vm_id, who, settings, made_with)
            loaded = await self._adapter.load(vm_id, code)
            if loaded.state != "ready":
                error = loaded.error or HandlerError(message="It cannot be imported.")
                raise TrialFailed(await self._secrets.masks.error(vm_id, error))
            if not settings.secrets_at_init:
                await self._secrets.give(vm_id, who, settings, made_with)
            job = await self._attempt(row, vm_id, settings)
        except ParentLost as error:
            await self._instances.remove(vm_id)
            raise Waits from error
        except NoAnswer as error:
            ended = await self._instances.remove(vm_id)
            why = ended.reason if ended is not None and ended.reason else error.detail
            raise DoesNot(f"The code could not be imported: {why}") from error
        except BaseException:
            await self._instances.remove(vm_id)
            raise
        if job is None:
            await self._instances.remove(vm_id)
        else:
            self._attempts.begin(job)
        await self._change(row)

    async def _attempt(self, row: TrialRow, vm_id: VmId, settings: FunctionSettings) -> Job | None:
        """Record that the attempt begins; None: the invocation has ended meanwhile."""
        now = self._clock()
        async with self._database.writing() as session:
            begun = await session.scalar(
                update(InvocationRow)
                .where(InvocationRow.id == row.id, InvocationRow.state.in_(STARTABLE))
                .values(
                    state=InvocationState.RUNNING,
                    attempt=InvocationRow.attempt + 1,
                    vm_id=vm_id,
                    deadline_ms=now + settings.queued_timeout_s * 1000,
                    claimed_by=self._server_id,
                    claimed_until_ms=now + CLAIM_MS,
                    updated_ms=not_before(InvocationRow.updated_ms, now),
                )
                .returning(InvocationRow)
                .execution_options(populate_existing=True)
            )
            if begun is None:
                return None
            session.add(
                AttemptRow(
                    invocation_id=begun.id,
                    attempt=begun.attempt,
                    version=0,
                    vm_id=vm_id,
                    start="fork",
                    started_ms=now,
                )
            )
            # It takes nothing else, and goes when it has none: whoever sees the attempt to its end.
            await session.execute(
                update(InstanceRow)
                .where(InstanceRow.vm_id == vm_id)
                .values(
                    state=InstanceState.DRAINING,
                    running=1,
                    served=1,
                    claimed_by=None,
                    claimed_until_ms=None,
                )
            )
        return Job(begun, settings, alone=True)

    async def _fail(self, row: TrialRow, told: HandlerError) -> None:
        await self._end(row, InvocationState.FAILED, Reason.VERSION_FAILED, told)

    async def _end(
        self, row: TrialRow, state: InvocationState, why: Reason, told: HandlerError | None
    ) -> None:
        now = self._clock()
        error = None if told is None else storable(_bounded(told))
        async with self._database.writing() as session:
            await session.execute(
                update(InvocationRow)
                .where(InvocationRow.id == row.id, InvocationRow.state.in_(STARTABLE))
                .values(
                    state=state,
                    reason=why,
                    error=error,
                    ended_ms=now,
                    updated_ms=not_before(InvocationRow.updated_ms, now),
                )
            )
        self._endings.tell(row.id)
        await self._forget(row)

    async def _forget(self, row: TrialRow) -> None:
        """Forget a trial that has ended, once its instance is gone."""
        async with self._database.reading() as session:
            now_there = await session.get(TrialRow, row.id)
        if now_there is None:
            return
        if now_there.vm_id is not None:
            try:
                await self._instances.remove(VmId(now_there.vm_id))
            except Unavailable:
                await self._change(row)
                return
        async with self._database.writing() as session:
            found = await session.get(TrialRow, row.id)
            if found is not None:
                await session.delete(found)

    async def _claimed(self, row: TrialRow) -> bool:
        now = self._clock()
        free = or_(TrialRow.claimed_by.is_(None), TrialRow.claimed_until_ms < now)
        async with self._database.writing() as session:
            got = await session.execute(
                update(TrialRow)
                .where(TrialRow.id == row.id, free)
                .values(claimed_by=self._server_id, claimed_until_ms=now + round(CLAIM_S * 1000))
                .returning(TrialRow.id)
            )
            return got.first() is not None

    async def _change(self, row: TrialRow) -> None:
        """Let go of a trial."""
        async with self._database.writing() as session:
            await session.execute(
                update(TrialRow)
                .where(TrialRow.id == row.id, TrialRow.claimed_by == self._server_id)
                .values(claimed_by=None, claimed_until_ms=None)
            )


async def _check_count(session: AsyncSession, account: AccountId) -> None:
    there = select(func.count()).where(TrialRow.account_id == account)
    if (await session.scalar(there) or 0) >= PER_ACCOUNT:
        raise QuotaExceeded(
            f"The account has {PER_ACCOUNT} tests under way, as many as it may.",
            retry_after_s=RETRY_AFTER_S,
        )


def _bounded(told: HandlerError) -> str:
    """Return what is told as JSON, cut where it is long."""
    stack = told.stack[:ERROR_CHARS_MAX] if told.stack else None
    cut = told.model_copy(update={"message": told.message[:ERROR_CHARS_MAX], "stack": stack})
    return cut.model_dump_json(by_alias=True)
