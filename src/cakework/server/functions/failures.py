"""What failed for good goes to the error handler (``onFailure``) of its trigger, or else of its
function, as work of its own.

    queued work failed, or expired ──▶ cakework.invocation.failed ──▶ the handler's function

It is taken in the transaction that writes the failure, so once, and is then like any other queued
work. What a handler fails at is a dead letter, and goes to no further handler.
"""

import json
from collections.abc import Callable, Sequence
from typing import Any

import structlog
from sqlalchemy import select
from sqlalchemy.orm import Session

from cakework.domain.functions import FunctionSettings
from cakework.domain.ids import AccountId, FunctionId, UserId
from cakework.domain.invocations import DEAD, FAILURE, TEST, InvocationState
from cakework.server.functions.functions import may_handle
from cakework.server.functions.invocations import Invocations, NewInvocation
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.function_models import FunctionRow, InvocationRow

EVENT_BYTES_MAX = 256 << 10
TYPE = "cakework.invocation.failed"
Json = dict[str, Any]
Shown = Callable[[Session, Sequence[str]], dict[str, Json]]
"""How the API shows invocations, by their ids."""
_log = structlog.stdlib.get_logger(__name__)


class Failures:
    """Hands over what failed for good, within the transactions that write it."""

    def __init__(
        self,
        invocations: Invocations,
        shapes: Shown,
    ) -> None:
        """Show what failed as ``shapes`` do."""
        self._invocations = invocations
        self._shapes = shapes

    def hand_over(self, session: Session, ids: Sequence[str]) -> list[str]:
        """Have handlers told of those of some invocations that failed for good and have one.

        Returns the ids of what was taken for that and failed at once, since it led too deep. Where
        as much waits as may, none is told: the dead letter is there all the same.
        """
        session.flush()
        query = (
            select(InvocationRow, FunctionRow, TriggerRow.on_failure)
            .join(FunctionRow, FunctionRow.id == InvocationRow.function_id)
            .outerjoin(TriggerRow, TriggerRow.id == InvocationRow.trigger_id)
            .where(
                InvocationRow.id.in_(ids),
                InvocationRow.kind == "queued",
                InvocationRow.state.in_(DEAD),
                InvocationRow.trigger.not_in((TEST, FAILURE)),
            )
        )
        over: list[str] = []
        for failed, function, of_trigger in session.execute(query).all():
            handler = _handler(session, function, of_trigger)
            if handler is None:
                continue
            try:
                with session.begin_nested():
                    row = self._taken(session, failed, function, handler)
            except Exception as error:
                # That it failed counts, whoever can be told of it.
                _log.warning("failure.untold", invocation_id=failed.id, detail=str(error))
                continue
            if row.state == InvocationState.FAILED:
                over.append(row.id)
        return over

    def _taken(
        self, session: Session, failed: InvocationRow, function: FunctionRow, handler: FunctionRow
    ) -> InvocationRow:
        new = NewInvocation(
            {
                "type": TYPE,
                "source": f"/functions/{failed.function_id}",
                "subject": failed.id,
                "data": self._data(session, failed),
            },
            # What an end user's function failed at is theirs, whoever invoked it.
            UserId(failed.user_id or function.user_id),
            FAILURE,
            depth=failed.depth + 1,
            cause_id=failed.id,
        )
        account = AccountId(failed.account_id)
        row = self._invocations.enter(session, account, FunctionId(handler.id), new)
        session.flush()
        return row

    def _data(self, session: Session, failed: InvocationRow) -> Json:
        """Return what a handler is told: as much of it as there is room for."""
        shown = self._shapes(session, [failed.id])[failed.id]
        why = f"It {failed.state}: {failed.reason}."
        error: Json = shown.get("error") or {"type": "NotDone", "message": why, "retriable": False}
        if failed.event_bytes <= EVENT_BYTES_MAX:
            event = json.loads(self._invocations.event(failed))
            whole = {"invocation": shown, "event": event, "error": error}
            if _fits(whole):
                return whole
        without = {
            "invocation": shown,
            "eventPath": f"/v1/invocations/{failed.id}/event",
            "error": error,
        }
        if _fits(without):
            return without
        # Texts of errors are bounded, and a trace is the longest of them.
        without["invocation"] = {name: told for name, told in shown.items() if name != "error"}
        without["error"] = {name: told for name, told in error.items() if name != "stack"}
        return without


def _handler(session: Session, function: FunctionRow, of_trigger: str | None) -> FunctionRow | None:
    handler_id = of_trigger
    if handler_id is None:
        settings = FunctionSettings.model_validate_json(function.settings)
        handler_id = None if settings.on_failure is None else settings.on_failure.function_id
    if handler_id is None:
        return None
    handler = session.get(FunctionRow, handler_id)
    return handler if may_handle(handler, function.account_id, function.user_id) else None


def _fits(data: Json) -> bool:
    return len(json.dumps(data)) <= EVENT_BYTES_MAX
