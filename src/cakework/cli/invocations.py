"""``cakework invocations``, and ``cakework dead``: those that failed for good."""

import json
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated, Any, TypedDict, cast

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_names import found, names
from cakework.cli.functions import User
from cakework.cli.invoke import show_end
from cakework.cli.output import Json, Output, ago, facts, shown
from cakework.cli.trigger_names import found_trigger
from cakework.cli.values import Time, WhyEnded
from cakework.cli.vms import Ids, for_each
from cakework.domain.ids import INVOCATION_ID_PATTERN
from cakework.domain.invocations import InvocationState
from cakework_client import Attempt, CakeworkClient, Invocation
from cakework_client.models import InvocationState as State
from cakework_client.models import Reason as Why

COLUMNS = {
    "id": "ID",
    "function": "FUNCTION",
    "state": "STATE",
    "reason": "REASON",
    "age": "AGE",
}
NEWEST = 50
IDS_AT_ONCE = 1_000
LOOKED_AT = 100
ORPHANS = (
    "Some stay, whose functions are deleted: `cakework dead` lists them as (deleted), "
    "`cakework dead discard ID` takes one off."
)
NOT_REPLAYED = (
    "cannot be replayed: such a one is no dead letter, or its function is deleted; `cakework dead` "
    "lists them."
)
NOT_DISCARDED = "were no dead letters."
Limit = Annotated[int, Parameter(validator=Number(gte=1))]

app = App(name="invocations", help="List invocations, show, cancel or replay some.")
dead = App(name="dead", help="What failed for good: list, show, replay, discard.")


@app.default
def invocations(
    *,
    function: str | None = None,
    user: User = None,
    state: InvocationState | None = None,
    reason: WhyEnded = None,
    from_: Annotated[Time, Parameter(name="--from")] = None,
    to: Time = None,
    trigger: str | None = None,
    event: str | None = None,
    limit: Limit = NEWEST,
    as_json: Json = False,
) -> int:
    """List invocations, newest first.

    Args:
        function: Only those of this function, by name or id.
        user: Only those for this end user.
        state: Only those in this state.
        reason: Only those that ended for this reason, such as handler_error.
        from_: Only those taken since this time, such as 2026-07-19T13:32:56+0000.
        to: Only those taken before this time.
        trigger: Only those that this trigger made, by id or name.
        event: Only those that the event with this id made.
        limit: How many at most.
    """
    with open_client() as client:
        function_id = found(client, function).id if function else None
        listed = client.iter_invocations(
            function_id=function_id,
            user_id=user,
            trigger_id=found_trigger(client, trigger, function).id if trigger else None,
            event_id=event,
            state=cast("State | None", state),
            reason=cast("Why | None", reason),
            from_=from_,
            to=to,
        )
        return _listed(client, listed, limit, Output(as_json=as_json), "No invocations.")


app.command(invocations, name="list")


@app.command
def show(invocation_id: str, /, *, as_json: Json = False) -> int:
    """Show an invocation: its event, its attempts, what it answered or why it failed.

    Args:
        invocation_id: Id of the invocation.
    """
    with open_client() as client:
        invocation = client.get_invocation(invocation_id)
        text = "" if as_json else described(client, invocation)
    Output(as_json=as_json).result(invocation.to_dict(), text)
    return ExitCode.OK


@app.command
def cancel(ids: Ids, /, *, as_json: Json = False) -> int:
    """Give invocations up; one that has ended stays as it is.

    Args:
        ids: Ids of the invocations.
    """
    return for_each(ids, CakeworkClient.cancel_invocation, as_json=as_json)


@app.command
def replay(
    invocation_id: str,
    /,
    *,
    version: str | None = None,
    wait: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    as_json: Json = False,
) -> int:
    """Do an invocation again, as a new one; print its id.

    Args:
        invocation_id: Id of the invocation.
        version: live (if absent), original, or a number.
        wait: Wait for its end, and print what it answers instead.
    """
    output = Output(as_json=as_json)
    with open_client() as client:
        number = int(version) if version and version.isdecimal() else version
        made = client.replay_invocation(invocation_id, version=number)
        if wait:
            return show_end(client, made, output)
    output.result(made.to_dict(), made.id)
    return ExitCode.OK


@dead.default
def dead_letters(
    *,
    function: str | None = None,
    reason: WhyEnded = None,
    from_: Annotated[Time, Parameter(name="--from")] = None,
    to: Time = None,
    trigger: str | None = None,
    event: str | None = None,
    limit: Limit = NEWEST,
    as_json: Json = False,
) -> int:
    """List queued work that failed for good, and was neither replayed nor discarded.

    Args:
        function: Only those of this function, by name or id.
        reason: Only those that ended for this reason, such as handler_error.
        from_: Only those taken since this time, such as 2026-07-19T13:32:56+0000.
        to: Only those taken before this time.
        trigger: Only those that this trigger made, by id or name.
        event: Only those that the event with this id made.
        limit: How many at most.
    """
    with open_client() as client:
        function_id = found(client, function).id if function else None
        listed = client.iter_dead_letters(
            function_id=function_id,
            trigger_id=found_trigger(client, trigger, function).id if trigger else None,
            event_id=event,
            reason=cast("Why | None", reason),
            from_=from_,
            to=to,
        )
        return _listed(client, listed, limit, Output(as_json=as_json), "No dead letters.")


dead.command(dead_letters, name="list")
dead.command(show, name="show")

OneOrAll = Annotated[list[str] | None, Parameter(name="id", negative=())]
All = Annotated[bool, Parameter(name="--all", negative=(), show_default=False)]


@dead.command(name="replay")
def replay_dead(
    ids: OneOrAll = None,
    /,
    *,
    all_: All = False,
    function: str | None = None,
    per_second: Annotated[float | None, Parameter(validator=Number(gt=0, lte=1000))] = None,
    as_json: Json = False,
) -> int:
    """Do dead letters again, each as a new invocation, on what is live then, the oldest first.

    Args:
        ids: Ids of the dead letters.
        all_: All that are listed now, instead of ids.
        function: With --all, only those of this function, by name or id.
        per_second: So many a second; as fast as may be if absent.
    """
    with open_client() as client:
        matched = sum(
            client.replay_dead_letters(**which, per_second=per_second).matched
            for which in _which(client, ids, function, all_=all_)
        )
        output = Output(as_json=as_json)
        if all_ and not function and _some_are_orphans(client):
            output.progress(ORPHANS)
    return _settled(matched, ids, "to be replayed", NOT_REPLAYED, output)


@dead.command(name="discard")
def discard_dead(
    ids: OneOrAll = None,
    /,
    *,
    all_: All = False,
    function: str | None = None,
    as_json: Json = False,
) -> int:
    """Take dead letters off the list; `cakework invocations show` still shows them.

    Args:
        ids: Ids of the dead letters.
        all_: All that are listed now, instead of ids.
        function: With --all, only those of this function, by name or id.
    """
    with open_client() as client:
        matched = sum(
            client.discard_dead_letters(**which).matched
            for which in _which(client, ids, function, all_=all_)
        )
    return _settled(matched, ids, "discarded", NOT_DISCARDED, Output(as_json=as_json))


class Which(TypedDict, total=False):
    """Which dead letters, as the client takes it."""

    ids: list[str]
    filter: dict[str, Any]


def _which(
    client: CakeworkClient, ids: list[str] | None, function: str | None, *, all_: bool
) -> Iterator[Which]:
    """Yield what to ask for: all that is meant at once, or ids as many as a call takes."""
    if bool(ids) == all_ or (function and not all_):
        raise CommandFailed("Give ids, or --all, which takes --function.", ExitCode.USAGE)
    for each in ids or ():
        if not re.fullmatch(INVOCATION_ID_PATTERN, each):
            raise CommandFailed(
                f"{each} is no id of an invocation; `cakework dead` lists the ids.", ExitCode.USAGE
            )
    if all_:
        yield Which(filter={"functionId": found(client, function).id} if function else {})
    for start in range(0, len(ids or ()), IDS_AT_ONCE):
        yield Which(ids=(ids or [])[start : start + IDS_AT_ONCE])


def _some_are_orphans(client: CakeworkClient) -> bool:
    """Say whether functions are gone of dead letters, as far as the newest tell."""
    there = names(client)
    return any(
        each.function_id not in there for each in islice(client.iter_dead_letters(), LOOKED_AT)
    )


def _settled(matched: int, ids: list[str] | None, done: str, not_done: str, output: Output) -> int:
    output.result({"matched": matched}, f"{matched} {done}")
    if ids and matched < len(set(ids)):
        raise CommandFailed(
            f"{len(set(ids)) - matched} of {len(set(ids))} {not_done}", code="not_found"
        )
    return ExitCode.OK


def _listed(
    client: CakeworkClient, found: Iterable[Invocation], limit: int, output: Output, empty: str
) -> int:
    """Print a list, of which there may be more."""
    listed = [each.to_dict() for each in islice(found, limit + 1)]
    more = len(listed) > limit
    rows: Sequence[Mapping[str, Any]] = listed[:limit]
    if rows and not output.as_json:
        called = names(client)
        rows = [
            {
                **each,
                "function": called.get(each["functionId"], "(deleted)"),
                "age": ago(each["createdAt"]),
            }
            for each in rows
        ]
    output.table(rows, COLUMNS, empty=empty)
    if more:
        output.progress(f"the newest {limit}; --limit shows more")
    return ExitCode.OK


def described(client: CakeworkClient, invocation: Invocation) -> str:
    """Return an invocation as text for a person."""
    called = names(client).get(invocation.function_id)
    function = f"{called} ({invocation.function_id})" if called else invocation.function_id
    reason = f": {invocation.reason}" if invocation.reason else ""
    told = facts(
        {
            "function": function,
            "state": f"{invocation.state}{reason}",
            "trigger": " ".join(filter(None, (invocation.trigger, invocation.trigger_id))),
            "scheduled": _time(invocation.scheduled_at),
            "cause": _cause(invocation),
            "user": invocation.user_id,
            "replay of": invocation.replay_of,
            "taken": _time(invocation.created_at),
            "next try": _time(invocation.next_attempt_at),
            "event": _json(invocation.event),
            "result": _json(invocation.result),
        }
    )
    lines = [invocation.id, told, *map(_attempt, invocation.attempts)]
    error = invocation.error
    if error:
        stack = error.stack or f"{error.type}: {error.message}"
        lines += [f"  {line}" for line in stack.splitlines()]
    return "\n".join(shown(line, sys.stdout) for text in lines for line in text.splitlines())


def _cause(invocation: Invocation) -> str | None:
    cause = invocation.cause
    return cause and (cause.event_id or cause.invocation_id)


def _attempt(attempt: Attempt) -> str:
    took = "" if attempt.duration_ms is None else f", {attempt.duration_ms} ms"
    return (
        f"  attempt {attempt.attempt}  {attempt.outcome or 'running'}: version "
        f"{attempt.version}, {attempt.start}{took}"
    )


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _time(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else None
