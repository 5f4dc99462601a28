"""``cakework logs``: read a log page by page, or follow it as it grows."""

import json
import re
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal, cast
from urllib.parse import quote

from cyclopts import Parameter

from cakework.cli.client import Client, Line, open_client, unreachable
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.output import Json, Output

BUILD_ID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
PAGE = 1000
RECONNECT_S = (0.0, 0.2, 0.5, 1.0, 2.0, 4.0, 8.0)
"""Waits before each try to go on with a broken stream; then the server counts as gone."""


def logs(
    source: str,
    /,
    *,
    follow: Annotated[bool, Parameter(alias="-f", negative=(), show_default=False)] = False,
    query: str | None = None,
    from_: Annotated[str | None, Parameter(name="--from")] = None,
    to: str | None = None,
    order: Literal["oldest_first", "newest_first"] | None = None,
    batch: int | None = None,
    timestamps: Annotated[bool, Parameter(alias="-t", negative=(), show_default=False)] = False,
    as_json: Json = False,
) -> int:
    """Show what a VM's program or a build printed.

    Standard error goes to standard error. With --json each line is an object of its own.

    Args:
        source: Id of a VM or of a build.
        follow: Go on with new lines until the VM or the build ends.
        query: Only lines that hold this text, in upper or lower case.
        from_: Only lines from this time on, such as 2026-07-19T13:32:56+0000.
        to: Only lines up to this time.
        order: oldest_first, or newest_first.
        batch: At most this many lines (50 to 1000), instead of all.
        timestamps: Show the time of each line, in UTC.
    """
    if follow and (order == "newest_first" or batch):
        raise CommandFailed("--follow takes neither --order nor --batch.", ExitCode.USAGE)
    output = Output(as_json=as_json)
    client = open_client()
    given = {"query": query, "from": from_, "to": to, "order": order}
    params = {name: value for name, value in given.items() if value is not None}
    path = log_of(source)
    lines = follow_log(client, path, params) if follow else read_log(client, path, params, batch)
    for line in lines:
        show(line, output, timestamps=timestamps)
    return ExitCode.OK


def log_of(source: str) -> str:
    """Return the path of a VM's or a build's log, told apart by the form of the id."""
    return build_log(source) if BUILD_ID.fullmatch(source) else vm_log(source)


def vm_log(vm_id: str) -> str:
    """Return the path of a VM's log."""
    return f"/v1/vm/{quote(vm_id, safe='')}/logs"


def build_log(build_id: str) -> str:
    """Return the path of a build's log."""
    return f"/v1/image/build/{quote(build_id, safe='')}/logs"


def show(line: Line, output: Output, *, timestamps: bool = False) -> None:
    """Print one line of a log."""
    if output.as_json:
        output.result(line, "")
        return
    when = f"{iso(line['timestamp'])}  " if timestamps else ""
    output.line(when + line["message"], level=line["level"])


def iso(unix_ms: int) -> str:
    """Return unix milliseconds as RFC 3339 in UTC."""
    moment = datetime.fromtimestamp(unix_ms / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def read_log(
    client: Client, path: str, params: Mapping[str, str], batch: int | None = None
) -> Generator[Line]:
    """Yield a log's lines: one page of ``batch``, or page after page to the end."""
    asked = {**params, "batch": str(batch or PAGE)}
    while True:
        page = client.call("GET", path, params=asked)
        yield from cast("list[Line]", page["lines"])
        if batch or not page.get("pagination"):
            return
        asked |= {name: str(page[name]) for name in ("pagination", "from", "to") if page.get(name)}


def follow_log(client: Client, path: str, params: Mapping[str, str]) -> Generator[Line]:
    """Yield a log's lines as they come until its source ends, through broken connections."""
    import httpx2

    position = Position()
    while not position.ended:
        try:
            yield from follow_once(client, path, params, position)
        except httpx2.ReadTimeout:
            continue
        except httpx2.TransportError as error:
            if not position.begun or position.failures == len(RECONNECT_S):
                raise unreachable(client.url, error) from error
        position.wait()


@dataclass
class Position:
    """How far the following of a log has come."""

    last_id: str | None = None
    begun: bool = False
    ended: bool = False
    failures: int = 0

    def wait(self) -> None:
        """Wait before the next try, longer after each failure in a row."""
        if not self.ended:
            time.sleep(RECONNECT_S[min(self.failures, len(RECONNECT_S) - 1)])
            self.failures += 1


def follow_once(
    client: Client, path: str, params: Mapping[str, str], position: Position
) -> Generator[Line]:
    """Yield lines from one connection, keeping ``position`` up to date."""
    with client.events(path, {**params, "follow": "true"}, position.last_id) as events:
        position.begun = True
        for event in events:
            position.failures = 0
            if event.event == "end":
                position.ended = True
                return
            if event.data:
                yield cast("Line", json.loads(event.data))
                position.last_id = event.id
