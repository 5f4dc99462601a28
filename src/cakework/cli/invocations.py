"""``cakework invocations``, and ``cakework dead``: those that failed for good."""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Annotated, Any

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_client import FunctionClient, Invocation, Matched
from cakework.cli.function_names import found, names
from cakework.cli.functions import User
from cakework.cli.invoke import ended, show_end
from cakework.cli.output import Json, Output, ago, facts, shown
from cakework.cli.values import Time, WhyEnded
from cakework.cli.vms import Ids, for_each
from cakework.domain.invocations import InvocationState

COLUMNS = {
    "id": "ID",
    "function": "FUNCTION",
    "state": "STATE",
    "reason": "REASON",
    "age": "AGE",
}
NEWEST = 50
IDS_AT_ONCE = 1_000
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
        limit: How many at most.
    """
    with open_client() as client:
        function_id = found(client, function).id if function else None
        listed = client.iter_invocations(
            function_id=function_id, user_id=user, state=state, reason=reason, from_=from_, to=to
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
    return for_each(ids, FunctionClient.cancel_invocation, as_json=as_json)


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
            return show_end(client, ended(client, made, output), output)
    output.result(made.to_dict(), made.id)
    return ExitCode.OK


@dead.default
def dead_letters(
    *,
    function: str | None = None,
    reason: WhyEnded = None,
    from_: Annotated[Time, Parameter(name="--from")] = None,
    to: Time = None,
    limit: Limit = NEWEST,
    as_json: Json = False,
) -> int:
    """List queued work that failed for good, and was neither replayed nor discarded.

    Args:
        function: Only those of this function, by name or id.
        reason: Only those that ended for this reason, such as handler_error.
        from_: Only those taken since this time, such as 2026-07-19T13:32:56+0000.
        to: Only those taken before this time.
        limit: How many at most.
    """
    with open_client() as client:
        function_id = found(client, function).id if function else None
        listed = client.iter_dead_letters(
            function_id=function_id, reason=reason, from_=from_, to=to
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
    as_json: Json = False,
) -> int:
    """Do dead letters again, each as a new invocation, on what is live now.

    Args:
        ids: Ids of the dead letters.
        all_: All that are listed now, instead of ids.
        function: With --all, only those of this function, by name or id.
    """
    return _settled(
        ids, all_, function, FunctionClient.replay_dead_letters, "to be replayed", as_json
    )


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
    return _settled(ids, all_, function, FunctionClient.discard_dead_letters, "discarded", as_json)


def _settled(
    ids: list[str] | None,
    all_: bool,
    function: str | None,
    settle: Callable[[FunctionClient, list[str]], Matched],
    done: str,
    as_json: bool,
) -> int:
    if bool(ids) == all_ or (function and not all_):
        raise CommandFailed("Give ids, or --all, which takes --function.", ExitCode.USAGE)
    matched = 0
    with open_client() as client:
        wanted = list(ids or ())
        if all_:
            function_id = found(client, function).id if function else None
            wanted = [each.id for each in client.iter_dead_letters(function_id=function_id)]
        for start in range(0, len(wanted), IDS_AT_ONCE):
            matched += settle(client, wanted[start : start + IDS_AT_ONCE]).matched
    Output(as_json=as_json).result({"matched": matched}, f"{matched} {done}")
    if ids and matched < len(set(ids)):
        raise CommandFailed(
            f"{len(set(ids)) - matched} of {len(set(ids))} were no dead letters.", code="not_found"
        )
    return ExitCode.OK


def _listed(
    client: FunctionClient, found: Iterable[Invocation], limit: int, output: Output, empty: str
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


def described(client: FunctionClient, invocation: Invocation) -> str:
    """Return an invocation as text for a person."""
    called = names(client).get(invocation.function_id)
    function = f"{called} ({invocation.function_id})" if called else invocation.function_id
    reason = f": {invocation.reason}" if invocation.reason else ""
    told = facts(
        {
            "function": function,
            "state": f"{invocation.state}{reason}",
            "trigger": invocation.trigger,
            "user": invocation.user_id,
            "replay of": invocation.replay_of,
            "taken": _time(invocation.created_at),
            "next try": _time(invocation.next_attempt_at),
            "event": _json(invocation.event),
            "result": _json(invocation.result),
        }
    )
    lines = [invocation.id, told, *map(_attempt, invocation.attempts or ())]
    error = invocation.error
    if error:
        stack = str(error.get("stack") or f"{error.get('type')}: {error.get('message')}")
        lines += [f"  {line}" for line in stack.splitlines()]
    return "\n".join(shown(line, sys.stdout) for text in lines for line in text.splitlines())


def _attempt(attempt: Mapping[str, Any]) -> str:
    took = f", {attempt['durationMs']} ms" if "durationMs" in attempt else ""
    return (
        f"  attempt {attempt['attempt']}  {attempt.get('outcome', 'running')}: version "
        f"{attempt['version']}, {attempt['start']}{took}"
    )


def _json(value: object) -> str | None:
    return None if value is None else json.dumps(value, ensure_ascii=False)


def _time(time: datetime | None) -> str | None:
    return f"{time:%Y-%m-%d %H:%M:%S} UTC" if time else None
