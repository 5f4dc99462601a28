"""``cakework triggers preview``: when a schedule would come round."""

from datetime import datetime
from typing import Annotated
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cyclopts import Parameter
from cyclopts.validators import Number

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.output import Json, Output
from cakework.cli.trigger_texts import moment
from cakework.cli.values import Time, Zone

COUNT_MAX = 50


def preview(
    *cron: str,
    every: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    at: Time = None,
    time_zone: Zone = None,
    count: Annotated[int, Parameter(validator=Number(gte=1, lte=COUNT_MAX))] = 5,
    from_: Annotated[Time, Parameter(name="--from")] = None,
    as_json: Json = False,
) -> int:
    """Show when a schedule would come round, and what changes of the clock do to it.

    Args:
        cron: Minute, hour, day of the month, month, weekday, such as "0 9 * * 1-5".
        every: Instead: every so many seconds.
        at: Instead: once, at this time.
        time_zone: The zone whose clock counts, such as Europe/Berlin; UTC if absent.
        count: How many times to show, up to 50.
        from_: Those after this time, instead of now.
    """
    if len(cron) > 1:
        raise CommandFailed(
            'A schedule is one word for the shell: put it in quotes, "0 9 * * 1-5".', ExitCode.USAGE
        )
    rule = cron[0] if cron else None
    if sum(each is not None for each in (rule, every, at)) != 1:
        raise CommandFailed('Give a schedule, "0 9 * * 1-5", or --every, or --at.', ExitCode.USAGE)
    with open_client() as client:
        found = client.preview_schedule(
            rule, every=every, at=at, time_zone=time_zone, count=count, from_=from_
        )
    output = Output(as_json=as_json)
    lines = [_line(time, time_zone) for time in found.times]
    output.result(found.to_dict(), "\n".join(lines) or "It never comes round.")
    if not as_json:
        for remark in found.remarks:
            output.progress(remark)
    return ExitCode.OK


def _line(time: datetime, zone: str | None) -> str:
    """Return a time, and what a clock there shows if this machine knows the zone."""
    if zone is None:
        return f"{time:%a} {moment(time)}"
    try:
        return f"{time.astimezone(ZoneInfo(zone)):%a %Y-%m-%d %H:%M:%S %Z}  {moment(time)}"
    except (ZoneInfoNotFoundError, ValueError):
        return f"{time:%a} {moment(time)}"
