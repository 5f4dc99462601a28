"""Webhooks that come in: whose door it is, whether it is signed, what it becomes.

    door ──▶ webhook ──▶ a turn, the body ──▶ signed? ──▶ event ──▶ wanted? ──▶ invocation
     404      503 paused                        401                   nothing      once a day

Whoever sends has no key. Until a signature was found right, what they send costs no more than
being read and hashed, is written nowhere, and takes time from nobody but the same door. What is
answered as taken is on record, with what it is known by when it comes again.
"""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.orm import Session
from ulid import ULID

from cakework.domain.cloudevents import TYPE_CHARS_MAX, USER_ID
from cakework.domain.errors import NotFound, QuotaExceeded, SignatureInvalid, Unavailable
from cakework.domain.functions import RetryPolicy
from cakework.domain.ids import AccountId, FunctionId, InvocationId, UserId
from cakework.domain.invocations import FINAL
from cakework.domain.signatures import KEPT_HEADERS, Arrived, Refused, arrived, verify
from cakework.domain.steps import Step
from cakework.domain.triggers import LIFECYCLE, TriggerType, WebhookConfig
from cakework.faults import step
from cakework.server.automations.arrivals import Arrivals, digest_of_body, digest_of_id
from cakework.server.automations.data import Data
from cakework.server.automations.doors import Doors, is_door
from cakework.server.automations.refusals import Refusals
from cakework.server.automations.rows import is_active, retry_of
from cakework.server.automations.wishes import compiled
from cakework.server.clock import Clock
from cakework.server.functions.invocations import Entry, Found, Invocations, NewInvocation
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.database import Database
from cakework.server.store.function_models import InvocationRow
from cakework.turns import Crowded, Turns

AT_ONCE = 2_048
"""Deliveries at work; ``AT_ONCE_ACCOUNT`` of one account."""
AT_ONCE_ACCOUNT = 256
AT_ONCE_EACH = 64
"""Of one webhook; as many more wait as ``WAITING_EACH``, for ``TURN_S``."""
WAITING_EACH = 512
TURN_S = 10.0
LOOKS_AT_ONCE = 8
"""Doors that are looked up, half of them for one address."""
RESULT_S = 10.0
RESULTS_AT_ONCE = 512
"""Results that are waited for, apart from deliveries at work; ``RESULTS_ACCOUNT`` of one account.
Where more are wanted, it is answered that the delivery is taken."""
RESULTS_ACCOUNT = 64
PATTERNS_MOST = 250
"""Filters that are kept compiled, of webhooks to which something signed came."""
PAUSED_RETRY_S = 300
"""Providers send again what is answered 503, most of them for hours."""
LARGE_BYTES = 128 * 1024
"""What is larger is hashed in threads."""
WRITTEN_BYTES = 16 * 1024
"""What is larger, or compared with a filter, is written and sealed in threads."""
KEPT_HEADER_CHARS_MAX = 1_024
"""Longer headers are not told of."""
RECEIVED = "received"
"""What an event's type says where the provider does not say a type."""
_UNSIGNED = "What comes to this webhook has to be signed with its secret, and to come in time."
_OTHER_SCHEME = "the secret is none of this scheme; rotate it"
_NOBODY = "There is no webhook at this address."


@dataclass(frozen=True, slots=True)
class Webhook:
    """A trigger of type webhook, as it was when something came to its door."""

    id: str
    account: AccountId
    function_id: FunctionId
    user_id: UserId
    config: WebhookConfig
    filter: str | None
    retry: RetryPolicy | None
    paused: bool
    door: bytes = field(repr=False)
    row: TriggerRow = field(repr=False)


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a delivery; it led to ``invocation_id``, unless a filter passed it over."""

    invocation_id: InvocationId | None
    duplicate: bool = False


class Inbound:
    """What comes in at webhooks."""

    def __init__(
        self,
        database: Database,
        doors: Doors,
        invocations: Invocations,
        refusals: Refusals,
        arrivals: Arrivals,
        clock: Clock,
    ) -> None:
        """Find webhooks in ``database``, have work taken by ``invocations``."""
        self._database = database
        self._doors = doors
        self._invocations = invocations
        self._refusals = refusals
        self._arrivals = arrivals
        self._clock = clock
        self._compiled = lru_cache(PATTERNS_MOST)(compiled)
        self._looks: Turns[str] = Turns(LOOKS_AT_ONCE)
        self._accounts: Turns[AccountId] = Turns(AT_ONCE, each=AT_ONCE_ACCOUNT)
        self._results: Turns[AccountId] = Turns(RESULTS_AT_ONCE, each=RESULTS_ACCOUNT)
        self._webhooks: Turns[str] = Turns(AT_ONCE, each=AT_ONCE_EACH, waiting=WAITING_EACH)

    async def find(self, door: str, caller: str) -> Webhook:
        """Return whose door it is that ``caller`` (an address) came to.

        Raises:
            NotFound: nobody's.
            Unavailable: it is that of a webhook that is paused.
        """
        if not is_door(door):
            raise NotFound(_NOBODY)
        query = select(TriggerRow).where(
            TriggerRow.door == self._doors.mark(door), TriggerRow.type == TriggerType.WEBHOOK
        )
        async with self._looks.hold(caller):
            row = await self._database.look(lambda session: session.scalar(query))
        if row is None:
            raise NotFound(_NOBODY)
        webhook = self._webhook(row)
        if webhook.paused:
            raise _paused()
        return webhook

    @asynccontextmanager
    async def turn(self, webhook: Webhook) -> AsyncGenerator[None]:
        """Wait for a turn of a webhook, and hold it while the block runs.

        Raises:
            QuotaExceeded: too many wait, or there was none in time.
        """
        busy = QuotaExceeded("Too much comes to this webhook at once.", retry_after_s=1)
        try:
            async with asyncio.timeout(TURN_S):
                await self._webhooks.wait(webhook.id)
        except (Crowded, TimeoutError) as error:
            raise busy from error
        try:
            if not self._accounts.take(webhook.account):
                raise busy
            try:
                yield
            finally:
                self._accounts.give_back(webhook.account)
        finally:
            self._webhooks.give_back(webhook.id)

    async def check(self, webhook: Webhook, headers: Mapping[str, str], body: bytes) -> None:
        """Check that who sent ``body`` knows a secret; if not, count it. Names are lower-case.

        Raises:
            SignatureInvalid: they do not. What was wrong is for the owner alone.
        """
        config, now_s = webhook.config.verify, self._clock() / 1000
        secrets = self._doors.secrets_of(webhook.row)
        arguments = config, secrets, headers, body, now_s
        try:
            if len(body) > LARGE_BYTES:
                await asyncio.to_thread(verify, *arguments)
            else:
                verify(*arguments)
        except (Refused, ValueError) as error:
            why = error.why if isinstance(error, Refused) else _OTHER_SCHEME
            self._refusals.count(webhook.id, why)
            raise SignatureInvalid(_UNSIGNED) from error

    def told(self, webhook: Webhook, headers: Mapping[str, str], data: Data) -> Arrived:
        """Return what the provider says of a delivery beside its body."""
        return arrived(webhook.config.verify, headers, data.value)

    async def take(
        self, webhook: Webhook, said: Arrived, headers: Mapping[str, str], data: Data, body: bytes
    ) -> Taken:
        """Take a delivery that was checked; it is durable when this returns.

        Raises:
            InvalidRequest, TooLarge: it makes no event.
            NotFound, Unavailable: the webhook is gone meanwhile, or paused.
            QueueFull, QuotaExceeded: as many wait, or are remembered, as may. Then it is as if it
                had not come.
        """
        arguments = webhook, said, headers, data, body
        if webhook.filter is not None or len(body) > WRITTEN_BYTES:
            digest, entry = await asyncio.to_thread(self._prepare, *arguments)
        else:
            digest, entry = self._prepare(*arguments)
        if entry is None:
            # When it comes again the filter says the same: nothing is to be remembered.
            return Taken(None)
        taken = await self._database.together(
            lambda session: self._enter(session, webhook, digest, entry), webhook.account
        )
        step(Step.SERVER_INVOCATION_ACCEPTED)
        return taken

    async def result(self, webhook: Webhook, invocation_id: InvocationId) -> Found | None:
        """Return an invocation with its result if it ends soon (``RESULT_S``); None if it does not,
        or too many wait for theirs."""
        if not self._results.take(webhook.account):
            return None
        try:
            row = await self._invocations.wait(webhook.account, invocation_id, RESULT_S)
        finally:
            self._results.give_back(webhook.account)
        if row.state not in FINAL:
            return None
        (found,) = await self._invocations.found([row])
        return found

    async def close(self) -> None:
        """Write down what was counted last."""
        await self._refusals.one_pass()

    def _webhook(self, row: TriggerRow) -> Webhook:
        return Webhook(
            id=row.id,
            account=AccountId(row.account_id),
            function_id=FunctionId(row.function_id),
            user_id=UserId(row.user_id),
            config=WebhookConfig.model_validate_json(row.config),
            filter=row.filter,
            retry=retry_of(row),
            paused=not is_active(row),
            door=row.door or b"",
            row=row,
        )

    def _prepare(
        self,
        webhook: Webhook,
        said: Arrived,
        headers: Mapping[str, str],
        data: Data,
        body: bytes,
    ) -> tuple[str | None, Entry | None]:
        """Return by what a delivery is known again, None if by nothing; and the invocation that it
        is to be, None if the filter passes it over."""
        event = event_of(webhook, said, headers, data, self._clock())
        digest = None
        if said.delivery_id is not None:
            digest = digest_of_id(said.delivery_id)
        elif webhook.config.dedupe:
            digest = digest_of_body(body)
        if webhook.filter is not None:
            wanted = self._compiled(webhook.filter)
            if wanted is None or not wanted.matches(event):
                return digest, None
        new = NewInvocation(
            event=event,
            user_id=webhook.user_id,
            trigger=TriggerType.WEBHOOK,
            trigger_id=webhook.id,
            retry=webhook.retry,
        )
        return digest, self._invocations.entry(webhook.account, webhook.function_id, new)

    def _enter(self, session: Session, webhook: Webhook, digest: str | None, entry: Entry) -> Taken:
        self._check_still(session, webhook)
        if digest is not None and (before := self._arrivals.find(session, webhook.id, digest)):
            return _again(before.invocation_id)
        if digest is not None:
            self._arrivals.check(session, webhook.account)
        made = InvocationId(entry.values["id"])
        parts = self._invocations.enter_all(session, webhook.account, [entry])
        told = parts.get(made, made)
        if digest is None or self._arrivals.note(session, webhook.id, digest, told):
            return Taken(told)
        # Another server was first.
        session.execute(delete(InvocationRow).where(InvocationRow.id == made))
        first = self._arrivals.find(session, webhook.id, digest)
        return _again(None if first is None else first.invocation_id)

    def _check_still(self, session: Session, webhook: Webhook) -> None:
        """Check that the webhook is still there; on PostgreSQL it then is until the commit."""
        query = select(TriggerRow).where(TriggerRow.id == webhook.id)
        row = session.scalar(query.with_for_update(read=True, key_share=True))
        if row is None or row.door != webhook.door:
            raise NotFound(_NOBODY)
        if not is_active(row):
            raise _paused()


def event_of(
    webhook: Webhook, said: Arrived, headers: Mapping[str, str], data: Data, now_ms: int
) -> dict[str, Any]:
    """Return the CloudEvent that a delivery is.

    Its ``id`` is the provider's; where there is none, a new one.
    """
    kept = sorted(KEPT_HEADERS & headers.keys())
    return {
        "specversion": "1.0",
        "id": said.delivery_id or str(ULID()),
        "source": f"/triggers/{webhook.id}",
        "type": _type(webhook.config, said.provider_type or RECEIVED),
        "time": datetime.fromtimestamp(now_ms / 1000, UTC).isoformat(timespec="milliseconds"),
        **data.fields,
        **({USER_ID: webhook.user_id} if webhook.user_id else {}),
        "cakeworktrigger": webhook.id,
        "cakeworkheaders": {
            name: headers[name] for name in kept if len(headers[name]) <= KEPT_HEADER_CHARS_MAX
        },
    }


def _type(config: WebhookConfig, provider_type: str) -> str:
    wanted = config.event_type or f"webhook.{config.verify.scheme}.{{type}}"
    kind = wanted.replace("{type}", provider_type)
    # Of a provider that says so itself; the platform's own come another way.
    kind = f"webhook.{kind}" if kind.startswith(LIFECYCLE) else kind
    return kind[:TYPE_CHARS_MAX]


def _paused() -> Unavailable:
    return Unavailable("This webhook is paused.", retry_after_s=PAUSED_RETRY_S)


def _again(invocation_id: str | None) -> Taken:
    known = None if invocation_id is None else InvocationId(invocation_id)
    return Taken(known, duplicate=True)
