"""The triggers of accounts: made, declared again and again, changed, run, removed.

What a trigger waits for is the business of others, who read its row: schedules of ``next_ms``,
events and the platform's own of ``type``, webhooks of ``door``. A row tells all of it, and whoever
makes an invocation by it does so in a transaction that has read the row.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import delete, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from cakework.domain.errors import Conflict, InvalidRequest, NotFound, QuotaExceeded
from cakework.domain.ids import (
    ACCOUNT_ITSELF,
    AccountId,
    FunctionId,
    TriggerId,
    UserId,
    new_trigger_id,
)
from cakework.domain.occurrences import next_due
from cakework.domain.triggers import (
    DONE,
    CronConfig,
    TriggerConfig,
    TriggerType,
    WebhookConfig,
)
from cakework.server.automations.declarations import (
    NewTrigger,
    TriggerFilter,
    check,
    other_secret,
    refused,
    secret_of,
)
from cakework.server.automations.doors import FORMER_MS, Doors
from cakework.server.automations.rows import COLUMNS, config_of, filter_of, retry_of, type_of
from cakework.server.clock import Clock
from cakework.server.functions.functions import may_handle, owned
from cakework.server.functions.invocations import Invocations, NewInvocation
from cakework.server.store.accounts import lock_account
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.database import Database
from cakework.server.store.function_models import FunctionRow, InvocationRow
from cakework.server.store.pages import Place, cut, newest_first
from cakework.server.store.sealing import Sealer

PER_ACCOUNT = 10_000
PER_FUNCTION = 1_000
LIFECYCLE_PER_ACCOUNT = 20
"""Each of them is looked at within each change that they may be told of."""
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Fired:
    """What a trigger made last."""

    at_ms: int
    state: str


@dataclass(frozen=True, slots=True)
class Shown:
    """A trigger, with what it made last, and the secret where it is to be shown: once."""

    row: TriggerRow
    last: Fired | None = None
    secret: str | None = field(default=None, repr=False)


class Triggers:
    """The triggers of accounts."""

    def __init__(
        self,
        database: Database,
        sealer: Sealer,
        doors: Doors,
        invocations: Invocations,
        clock: Clock,
        hint: Callable[[], None],
    ) -> None:
        """Keep records in ``database``; ``hint`` says that a schedule is new or another."""
        self._database = database
        self._sealer = sealer
        self._doors = doors
        self._invocations = invocations
        self._clock = clock
        self._hint = hint

    async def create(self, account: AccountId, new: NewTrigger, token: str | None = None) -> Shown:
        """Make a trigger; one with an ``external_id`` that is there and says the same is that.

        Raises:
            NotFound: the account has no such function.
            InvalidRequest: the filter, the secret or who is to be told of failures is not right.
            Conflict: there is one with this ``external_id`` that says something else.
            QuotaExceeded: the account, or the function, has as many as it may.
        """
        check(new.config, new.filter)
        secret, made_here = secret_of(new)
        async with self._database.writing() as session:
            if token is not None and (made := await _made_by(session, token)) is not None:
                return Shown(made, secret=self._made_secret(made, made_here=made_here))
            await lock_account(session, account)
            function = await owned(session, account, new.function_id)
            user = await self._check_whose(session, account, function, new)
            trigger_id = new_trigger_id()
            digest = self._digest(new)
            if (known := await _declared(session, new)) is not None:
                if known.digest == digest:
                    return Shown(known, (await self._fired(session, [known])).get(known.id))
                raise Conflict(
                    f"The function has a trigger with this externalId that is another: {known.id}. "
                    "Change that, or delete it."
                )
            await self._check_room(session, account, new)
            row = self._row(trigger_id, account, user, new, secret)
            row.digest, row.request_token = digest, token
            session.add(row)
        self._hint()
        return Shown(row, secret=secret if made_here else None)

    async def get(self, account: AccountId, trigger_id: TriggerId) -> Shown:
        """Return a trigger of the account. Raises NotFound."""
        async with self._database.reading() as session:
            row = await _owned(session, account, trigger_id)
            return Shown(row, (await self._fired(session, [row])).get(row.id))

    async def page(
        self, account: AccountId, wanted: TriggerFilter, after: Place | None
    ) -> tuple[list[Shown], Place | None]:
        """Return up to 100 triggers, newest first, and the place where the next page goes on."""
        query = select(TriggerRow).where(*wanted.of(account))
        query = newest_first(query, TriggerRow.created_ms, TriggerRow.id, after)
        async with self._database.reading() as session:
            rows, place = cut(
                list(await session.scalars(query)), lambda row: Place(row.created_ms, row.id)
            )
            fired = await self._fired(session, rows)
        return [Shown(row, fired.get(row.id)) for row in rows], place

    async def change(
        self, account: AccountId, trigger_id: TriggerId, changes: dict[str, Any]
    ) -> Shown:
        """Change what is in ``changes``: ``name``, ``enabled``, ``config``, ``filter``, ``retry``,
        ``limits``, ``on_failure``, ``pause_after``, as in :class:`NewTrigger`.

        One that is enabled again goes on from now: nothing was missed meanwhile.

        Raises:
            NotFound: the account has no such trigger.
            InvalidRequest: what is asked does not fit.
        """
        async with self._database.writing() as session:
            row = await _owned(session, account, trigger_id, locked=True)
            function = await owned(session, account, row.function_id)
            if handler := changes.get("on_failure"):
                await _check_handler(session, account, function, handler)
            config: TriggerConfig = changes.get("config") or config_of(row)
            check(config, changes["filter"] if "filter" in changes else filter_of(row))
            for name, column in COLUMNS.items():
                if name in changes:
                    setattr(row, name, column(changes[name]))
            if "enabled" in changes:
                row.enabled = changes["enabled"]
            if changes.get("enabled"):
                row.paused_reason, row.failures = None, 0
            if {"enabled", "config"} & changes.keys():
                self._schedule(row, config)
            row.digest = None
            # Never the same again: by that it is known to have changed (wishes.py).
            row.updated_ms = max(row.updated_ms + 1, self._clock())
            fired = (await self._fired(session, [row])).get(row.id)
        self._hint()
        return Shown(row, fired)

    async def delete(self, account: AccountId, trigger_id: TriggerId) -> None:
        """Remove a trigger. What it made goes on. Raises NotFound."""
        async with self._database.writing() as session:
            await _owned(session, account, trigger_id, locked=True)
            await session.execute(delete(TriggerRow).where(TriggerRow.id == trigger_id))

    async def run(
        self,
        account: AccountId,
        trigger_id: TriggerId,
        event: Json,
        token: str | None = None,
    ) -> InvocationRow:
        """Have a trigger make an invocation now, paused or not. Raises NotFound, and what
        :meth:`Invocations.take` does."""
        row = (await self.get(account, trigger_id)).row
        config = config_of(row)
        given = {"data": config.data} if isinstance(config, CronConfig) else {}
        whole = {
            "type": f"cakework.trigger.{row.type}",
            "source": f"/triggers/{row.id}",
            **given,
            **event,
            "test": True,
        }
        if "data_base64" in event:
            whole.pop("data", None)
        new = NewInvocation(
            whole, UserId(row.user_id), row.type, trigger_id=row.id, retry=retry_of(row)
        )
        return await self._invocations.take(account, FunctionId(row.function_id), new, token)

    async def rotate(
        self,
        account: AccountId,
        trigger_id: TriggerId,
        *,
        url: bool,
        secret: str | bool,
        token: str | None = None,
    ) -> Shown:
        """Give a webhook another URL, another secret, or both. The URL before is nothing from then
        on; the secret before is taken for 24 hours. ``token`` names an idempotent request: what it
        makes is the same whenever it is carried out.

        Raises:
            NotFound: the account has no such trigger.
            InvalidRequest: it is no webhook, or its secret is not ours to make.
        """
        async with self._database.writing() as session:
            row = await _owned(session, account, trigger_id, locked=True)
            config = config_of(row)
            if not isinstance(config, WebhookConfig):
                raise InvalidRequest("Only a webhook has a URL and a secret.")
            given = None
            if secret:
                drawn = self._doors.draw("secret", row.id, token)
                given = other_secret(config.verify, secret, drawn)
                if row.secret_sealed is not None and given != self._doors.secrets_of(row)[0]:
                    row.former_sealed = row.secret_sealed
                    row.former_until_ms = self._clock() + FORMER_MS
                row.secret_sealed = self._doors.seal_secret(trigger_id, given)
            if url:
                self._open_door(row, token)
            row.digest = None
            row.updated_ms = max(row.updated_ms, self._clock())
            fired = (await self._fired(session, [row])).get(row.id)
        return Shown(row, fired, given if secret is True else None)

    def now_ms(self) -> int:
        """Return what time it is, as schedules see it."""
        return self._clock()

    def door(self, row: TriggerRow) -> str | None:
        """Return the secret part of a webhook's URL; None for other triggers."""
        if row.door_sealed is None:
            return None
        return self._doors.open_door(row.id, row.door_sealed)

    def _row(
        self,
        trigger_id: TriggerId,
        account: AccountId,
        user: UserId,
        new: NewTrigger,
        secret: str | None,
    ) -> TriggerRow:
        now = self._clock()
        row = TriggerRow(
            id=trigger_id,
            account_id=account,
            function_id=new.function_id,
            user_id=user,
            type=type_of(new.config),
            external_id=new.external_id,
            managed_by=new.managed_by,
            enabled=new.enabled,
            failures=0,
            failing=False,
            refused=0,
            created_ms=now,
            updated_ms=now,
        )
        for name, column in COLUMNS.items():
            setattr(row, name, column(getattr(new, name)))
        self._schedule(row, new.config)
        if isinstance(new.config, WebhookConfig):
            self._open_door(row)
            if secret is not None:
                row.secret_sealed = self._doors.seal_secret(trigger_id, secret)
        return row

    def _open_door(self, row: TriggerRow, token: str | None = None) -> None:
        door = self._doors.new(self._doors.draw("door", row.id, token))
        row.door, row.door_sealed = self._doors.mark(door), self._doors.seal_door(row.id, door)

    def _schedule(self, row: TriggerRow, config: TriggerConfig) -> None:
        """Set when a schedule is due next; nothing before now."""
        row.next_ms = None
        if not isinstance(config, CronConfig) or not row.enabled:
            return
        row.next_ms = next_due(row.id, config, self._clock())
        row.paused_reason = DONE if row.next_ms is None else None

    def _made_secret(self, row: TriggerRow, *, made_here: bool) -> str | None:
        """Return the secret that was made with a trigger; None once it has had another."""
        if not made_here or row.secret_sealed is None or row.former_sealed is not None:
            return None
        return self._doors.secrets_of(row)[0]

    def _digest(self, new: NewTrigger) -> str | None:
        if new.external_id is None:
            return None
        return self._sealer.mark(new.told().encode(), "trigger").hex()

    async def _check_whose(
        self, session: AsyncSession, account: AccountId, function: FunctionRow, new: NewTrigger
    ) -> UserId:
        """Return the end user whose the trigger is. Raises InvalidRequest."""
        if function.user_id and new.user_id not in (ACCOUNT_ITSELF, function.user_id):
            raise refused("userId", "is not whose the function is")
        if new.on_failure is not None:
            await _check_handler(session, account, function, new.on_failure)
        return UserId(new.user_id or function.user_id)

    async def _check_room(self, session: AsyncSession, account: AccountId, new: NewTrigger) -> None:
        theirs = TriggerRow.account_id == account
        rooms = [
            (theirs, "account", "triggers", PER_ACCOUNT),
            (TriggerRow.function_id == new.function_id, "function", "triggers", PER_FUNCTION),
        ]
        if type_of(new.config) is TriggerType.LIFECYCLE:
            of_lifecycle = theirs & (TriggerRow.type == TriggerType.LIFECYCLE)
            rooms.append((of_lifecycle, "account", "lifecycle triggers", LIFECYCLE_PER_ACCOUNT))
        for which, whose, what, most in rooms:
            count = select(func.count()).select_from(TriggerRow).where(which)
            if (await session.scalar(count) or 0) >= most:
                raise QuotaExceeded(f"The {whose} has {most} {what}, as many as it may.")

    async def _fired(self, session: AsyncSession, rows: Sequence[TriggerRow]) -> dict[str, Fired]:
        """Return what some triggers made last."""
        newest = (
            select(InvocationRow.id)
            .where(InvocationRow.trigger_id == TriggerRow.id)
            .order_by(InvocationRow.created_ms.desc(), InvocationRow.id.desc())
            .limit(1)
            .correlate(TriggerRow)
            .scalar_subquery()
        )
        of = select(newest).where(TriggerRow.id.in_([row.id for row in rows]))
        made = select(
            InvocationRow.trigger_id, InvocationRow.created_ms, InvocationRow.state
        ).where(InvocationRow.id.in_(of))
        found = (await session.execute(made)).all()
        return {of or "": Fired(at_ms, state) for of, at_ms, state in found}


async def _check_handler(
    session: AsyncSession, account: AccountId, function: FunctionRow, handler_id: str
) -> None:
    handler = await session.get(FunctionRow, handler_id)
    if not may_handle(handler, account, function.user_id):
        told = "is no function that may be told: of the account, or of the same end user"
        raise refused("onFailure.functionId", told)


async def _declared(session: AsyncSession, new: NewTrigger) -> TriggerRow | None:
    if new.external_id is None:
        return None
    return await session.scalar(
        select(TriggerRow).where(
            TriggerRow.function_id == new.function_id, TriggerRow.external_id == new.external_id
        )
    )


async def _made_by(session: AsyncSession, token: str) -> TriggerRow | None:
    return await session.scalar(select(TriggerRow).where(TriggerRow.request_token == token))


async def _owned(
    session: AsyncSession, account: AccountId, trigger_id: TriggerId, *, locked: bool = False
) -> TriggerRow:
    query = select(TriggerRow).where(TriggerRow.id == trigger_id)
    row = await session.scalar(query.with_for_update() if locked else query)
    if row is None or row.account_id != account:
        raise NotFound(f"There is no trigger {trigger_id}.")
    return row
