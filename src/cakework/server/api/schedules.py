"""The call that tells when a schedule would come round. It makes nothing."""

import asyncio
from dataclasses import dataclass

from fastapi import APIRouter
from pydantic import Field

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    FieldError,
    InvalidRequest,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.domain.occurrences import Occurrences
from cakework.domain.schedules import (
    EVERY_S_MAX,
    EVERY_S_MIN,
    BadSchedule,
    Cron,
    Every,
    Once,
    Schedule,
    remarks,
)
from cakework.domain.times import parse_time
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody
from cakework.server.clock import Clock

TIMES_MAX = 50
_ONE_OF = "give one of cron, every and at"


class PreviewSchedule(RequestBody):
    """What previewSchedule takes: one of `cron`, `every` and `at`."""

    cron: str | None = Field(
        default=None,
        max_length=256,
        description="Five fields: minute, hour, day of the month, month, weekday.",
    )
    every: int | None = Field(
        default=None,
        description=f"Every so many seconds, {EVERY_S_MIN} to {EVERY_S_MAX}, counted from "
        "1970-01-01T00:00:00Z.",
    )
    at: str | None = Field(default=None, max_length=40, description="Once, at this time.")
    time_zone: str | None = Field(
        default=None,
        max_length=64,
        description="The zone whose clock `cron` goes by, such as Europe/Berlin; UTC if absent.",
    )
    count: int = Field(default=5, ge=1, le=TIMES_MAX, description="How many times to tell.")
    from_: str | None = Field(
        default=None,
        alias="from",
        max_length=40,
        description="Tell those after this time; now, if absent.",
    )


class SchedulePreview(AnswerBody):
    """When a schedule would come round."""

    times: list[str] = Field(
        description="The next times, the first one first; fewer than asked for where there are "
        "no more.",
        json_schema_extra={"items": {"type": "string", "format": "date-time"}},
    )
    remarks: list[str] = Field(
        description="What changes of the wall clock do to it around these times, for people."
    )


@dataclass(frozen=True, slots=True)
class ScheduleRoutes:
    """The calls about schedules that no trigger has."""

    clock: Clock

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Triggers"], route_class=door.route_class())
        router.add_api_route(
            "/v1/schedules/preview",
            self.preview,
            methods=["POST"],
            operation_id="previewSchedule",
            summary="Tell when a schedule would come round",
            response_model_exclude_none=True,
            responses=responses(
                *(Unauthenticated, InvalidRequest, Conflict, QuotaExceeded, CakeworkError),
                *BODY_ERRORS,
            ),
        )
        return router

    async def preview(
        self, _account: Account, _token: Token, body: PreviewSchedule
    ) -> SchedulePreview:
        """Return the next times of a schedule, and what becomes of it where the clock of its zone
        is changed. A trigger with `spread` comes as much later as its `next` says."""
        after_ms = self.clock() if body.from_ is None else _time("from", body.from_)
        return await asyncio.to_thread(_preview, body, after_ms)


def _preview(body: PreviewSchedule, after_ms: int) -> SchedulePreview:
    try:
        schedule = _schedule(body)
    except BadSchedule as error:
        raise _refused(error.field, str(error)) from error
    times = Occurrences(schedule).first(body.count, after_ms)
    return SchedulePreview(
        times=[rfc3339(each) for each in times], remarks=remarks(schedule, times)
    )


def _schedule(body: PreviewSchedule) -> Schedule:
    given = [name for name in ("cron", "every", "at") if getattr(body, name) is not None]
    if len(given) != 1:
        raise _refused(given[1] if given else "cron", _ONE_OF)
    if body.cron is not None:
        return Cron.parse(body.cron, body.time_zone or "UTC")
    if body.time_zone is not None:
        raise _refused("timeZone", "goes with cron alone")
    if body.every is not None:
        return Every(body.every)
    return Once(_time("at", body.at or ""))


def _time(field: str, text: str) -> int:
    try:
        return parse_time(text)
    except ValueError as error:
        raise _refused(field, str(error)) from error


def _refused(field: str, message: str) -> InvalidRequest:
    return InvalidRequest(
        f"The request is not valid: {field} {message}.", [FieldError(field, message)]
    )
