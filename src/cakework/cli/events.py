"""``cakework events``: what happened in your product, for the triggers that want it."""

import json
import sys
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, cast

from cyclopts import App, Parameter

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_names import names
from cakework.cli.functions import User
from cakework.cli.invocations import NEWEST, Limit
from cakework.cli.invoke import read_json
from cakework.cli.output import Json, Output, ago, facts, shown
from cakework.cli.trigger_options import read_object
from cakework.cli.trigger_texts import moment
from cakework.cli.values import JsonText, Time
from cakework_client import EmittedEvent, Event

COLUMNS = {"id": "ID", "type": "TYPE", "subject": "SUBJECT", "made": "MADE", "age": "AGE"}

app = App(name="events", help="Emit events, and look at what became of them.")


@app.default
def events(
    *,
    type_: Annotated[str | None, Parameter(name="--type")] = None,
    subject: str | None = None,
    user: User = None,
    from_: Annotated[Time, Parameter(name="--from")] = None,
    to: Time = None,
    limit: Limit = NEWEST,
    as_json: Json = False,
) -> int:
    """List events, newest first, with how many invocations each made.

    Args:
        type_: Only those of this type.
        subject: Only those with this subject.
        user: Only those of this end user.
        from_: Only those taken since this time, such as 2026-07-19T13:32:56+0000.
        to: Only those taken before this time.
        limit: How many at most.
    """
    with open_client() as client:
        found = client.iter_events(type=type_, subject=subject, user_id=user, from_=from_, to=to)
        listed = [each.to_dict() for each in islice(found, limit + 1)]
    output, rows = Output(as_json=as_json), listed[:limit]
    if not as_json:
        rows = [each | {"age": ago(each["createdAt"])} for each in rows]
    output.table(rows, COLUMNS, empty="No events.")
    if len(listed) > limit:
        output.progress(f"the newest {limit}; --limit shows more")
    return ExitCode.OK


app.command(events, name="list")


@app.command
def emit(
    type_: Annotated[str | None, Parameter(name="type")] = None,
    /,
    *,
    data: Annotated[JsonText, Parameter(alias="-d")] = None,
    subject: str | None = None,
    source: str | None = None,
    id_: Annotated[str | None, Parameter(name="--id")] = None,
    event: JsonText = None,
    user: User = None,
    as_json: Json = False,
) -> int:
    """Emit an event: each trigger that wants it makes an invocation. Prints its id.

    Args:
        type_: What happened, such as order.paid.
        data: What there is to know of it: JSON, @FILE, or - for standard input.
        subject: What it happened to, such as order-17.
        source: Where it comes from; with --id, sent again it is done once.
        id_: Your own id for it.
        event: Instead of all that, a whole event (CloudEvent), or a list of up to 1,000.
        user: End user whose it is.
    """
    told = _told({"subject": subject, "source": source, "id": id_}, data)
    if (type_ is None) == (event is None) or (event is not None and told):
        raise CommandFailed("Give a type, or a whole --event.", ExitCode.USAGE)
    sent = [{"type": type_, **told}] if event is None else _whole(event)
    with open_client() as client:
        emitted = client.emit_events(sent, user_id=user)
    output = Output(as_json=as_json)
    for each in emitted.events:
        output.progress(_became(each))
    text = "\n".join(each.id for each in emitted.events)
    one = emitted.events[0] if len(emitted.events) == 1 and event is None else emitted
    output.result(one.to_dict(), text)
    return ExitCode.OK


@app.command
def show(event_id: str, /, *, as_json: Json = False) -> int:
    """Show an event, and the invocations that it made.

    Args:
        event_id: Id of the event.
    """
    with open_client() as client:
        event = client.get_event(event_id)
        called = {} if as_json or not event.invocations else names(client)
    Output(as_json=as_json).result(event.to_dict(), _described(event, called))
    return ExitCode.OK


@app.command(name="match")
def match_(
    *,
    filter_: Annotated[JsonText, Parameter(name="--filter", required=True)],
    event: Annotated[JsonText, Parameter(required=True)],
    as_json: Json = False,
) -> int:
    """Try a filter on an event, and say why it takes it or not; ends with 1 if it does not.

    Args:
        filter_: A filter, as triggers have them: JSON, @FILE, or - for standard input.
        event: An event, or as much of one as the filter looks at, in the same ways.
    """
    pattern, given = read_object(filter_, "--filter"), read_object(event, "--event")
    with open_client() as client:
        found = client.test_filter(pattern or {}, given or {})
    output = Output(as_json=as_json)
    output.result(found.to_dict(), "It matches." if found.matches else "It does not match.")
    if not as_json:
        for line in found.because:
            output.line(f"  {line}")
    return ExitCode.OK if found.matches else ExitCode.FAILED


def _told(attributes: Mapping[str, str | None], data: str | None) -> dict[str, Any]:
    told: dict[str, Any] = {name: value for name, value in attributes.items() if value is not None}
    return told if data is None else {**told, "data": read_json(data, "--data")}


def _whole(event: str) -> list[dict[str, Any]]:
    value = read_json(event, "--event")
    events = cast("list[object]", value if isinstance(value, list) else [value])
    if not events or not all(isinstance(each, dict) for each in events):
        raise CommandFailed("--event is no event, and no list of some.", ExitCode.USAGE)
    return cast("list[dict[str, Any]]", events)


def _became(event: EmittedEvent) -> str:
    if event.duplicate:
        return f"{event.id} was there already: nothing is made"
    return f"{event.id} made {event.invocations} invocation{'' if event.invocations == 1 else 's'}"


def _described(event: Event, called: Mapping[str, str]) -> str:
    told = facts(
        {
            "type": event.type,
            "subject": event.subject,
            "user": event.user_id,
            "taken": moment(event.created_at),
            "made": f"{event.made}{', and more to come' if event.pending else ''}",
            "cause": event.cause_id,
            "event": None if event.event is None else json.dumps(event.event, ensure_ascii=False),
        }
    )
    lines = [event.id, *told.splitlines()]
    lines += [
        f"  {each.id}  {each.state}: {called.get(each.function_id, '(deleted)')}"
        for each in event.invocations or ()
    ]
    return "\n".join(shown(line, sys.stdout) for line in lines)
