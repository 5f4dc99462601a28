"""``cakework logs``: read a log, or follow it as it grows."""

import re
from itertools import islice
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_names import found
from cakework.cli.functions import User
from cakework.cli.output import Json, Output, iso
from cakework.cli.values import Time
from cakework_client import CakeworkClient, LogLine

AN_ID = re.compile(r"(fn|inv)_.*|[0-9a-f]{14}|[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""Of a function, an invocation, a VM or a build."""


def logs(
    source: str,
    /,
    *,
    follow: Annotated[bool, Parameter(alias="-f", negative=(), show_default=False)] = False,
    query: str | None = None,
    from_: Annotated[Time, Parameter(name="--from")] = None,
    to: Time = None,
    order: Literal["oldest_first", "newest_first"] | None = None,
    batch: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    timestamps: Annotated[bool, Parameter(alias="-t", negative=(), show_default=False)] = False,
    user: User = None,
    as_json: Json = False,
) -> int:
    """Show what a function, an invocation, a VM's program or a build printed.

    Standard error goes to standard error. With --json each line is an object of its own.

    Args:
        source: Name or id of a function, or id of an invocation, a VM or a build.
        follow: Go on with new lines until it ends: the invocation, the VM, the build.
        query: Only lines that hold this text, in upper or lower case.
        from_: Only lines from this time on, such as 2026-07-19T13:32:56+0000.
        to: Only lines up to this time.
        order: oldest_first, or newest_first.
        batch: At most this many lines, instead of all.
        timestamps: Show the time of each line, in UTC.
        user: End user whose the function is.
    """
    if follow and (order == "newest_first" or batch):
        raise CommandFailed("--follow takes neither --order nor --batch.", ExitCode.USAGE)
    output = Output(as_json=as_json)
    with open_client() as client:
        source_id = id_of(client, source, user)
        if follow:
            lines = client.follow_logs(source_id, query=query, from_=from_, to=to)
        else:
            lines = client.iter_logs(source_id, query=query, from_=from_, to=to, order=order)
        for line in islice(lines, batch):
            show(line, output, timestamps=timestamps)
    return ExitCode.OK


def id_of(client: CakeworkClient, source: str, user: str | None) -> str:
    """Return the id of what has a log; what is no id is the name of a function."""
    return source if not source or AN_ID.fullmatch(source) else found(client, source, user).id


def show(line: LogLine, output: Output, *, timestamps: bool) -> None:
    """Print one line of a log."""
    if output.as_json:
        output.result(line.to_dict(), "")
        return
    when = f"{iso(line.timestamp)}  " if timestamps else ""
    output.line(when + line.message, level=line.level)
