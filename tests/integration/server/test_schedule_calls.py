"""Schedules as the API has them: previewed, and from a trigger to its function's answer."""

import json
from collections.abc import AsyncGenerator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from cakework.server.clock import now_ms

from .function_node import FunctionNode
from .rig import Json, Rig, eventually
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
PATH = "/v1/schedules/preview"
SCHEDULED = """\
import pathlib, time

def scheduled(event, context):
    gate = (event.get("data") or {}).get("gate")
    while gate and not pathlib.Path(gate).exists():
        time.sleep(0.005)
    return {"time": event["time"], "data": event.get("data")}
"""


@pytest.fixture
def database_url() -> None:
    """The clock is moved, and the store is the one that tests of the loop have both of."""


class Clock:
    """The time of day, but for what a test adds to it."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    def __call__(self) -> int:
        return now_ms() + self.ahead_ms


class Scheduled:
    """A function with a handler for schedules, and a clock that the test sets ahead."""

    def __init__(self, functions: Functions, clock: Clock) -> None:
        self.functions = functions
        self.clock = clock
        self.function_id = ""

    async def trigger(self, **config: Any) -> str:
        body = {"functionId": self.function_id, "type": "cron", "config": config}
        return (await self.functions.rig.ok("POST", "/v1/triggers", json=body))["id"]

    async def ahead(self, ms: int) -> None:
        self.clock.ahead_ms += ms
        self.functions.rig.server.automations.schedules.changed()

    async def made(self, trigger_id: str, *states: str) -> list[Json]:
        """Return a trigger's invocations, the oldest first, when their states are these."""

        async def look() -> list[Json] | None:
            found = await self.functions.rig.ok(
                "GET", "/v1/invocations", params={"triggerId": trigger_id}
            )
            oldest_first = found["invocations"][::-1]
            return oldest_first if [each["state"] for each in oldest_first] == [*states] else None

        return await eventually(look, f"invocations are {states}")


@pytest.fixture
async def scheduled(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Scheduled]:
    clock = Clock()
    async with served(folder, hosting, None, clock) as functions:
        made = Scheduled(functions, clock)
        made.function_id = await functions.made(SCHEDULED)
        yield made


async def test_a_schedule_runs_its_function(scheduled: Scheduled) -> None:
    """When it is due, with its data, in the handler for schedules."""
    trigger_id = await scheduled.trigger(cron="0 0 1 1 *", data={"a": 1})
    rig = scheduled.functions.rig
    due = (await rig.ok("GET", f"/v1/triggers/{trigger_id}"))["next"][0]
    at = datetime.fromisoformat(due)
    await scheduled.ahead(round(at.timestamp() * 1000) - now_ms())
    (made,) = await scheduled.made(trigger_id, "succeeded")
    assert made["trigger"] == "cron"
    assert made["result"] == {"time": due, "data": {"a": 1}}
    assert made["event"]["type"] == "cakework.trigger.cron"


async def test_once_is_done(scheduled: Scheduled) -> None:
    """The trigger says so, and goes on with another time."""
    rig = scheduled.functions.rig
    trigger_id = await scheduled.trigger(at="2100-01-01T00:00:00Z")
    path = f"/v1/triggers/{trigger_id}"
    await scheduled.ahead(4_102_444_800_000 - now_ms())
    await scheduled.made(trigger_id, "succeeded")
    trigger = await rig.ok("GET", path)
    assert (trigger["state"], trigger["pausedReason"]) == ("paused", "done")
    assert not trigger.get("next")
    await rig.ok("PATCH", path, json={"config": {"at": "2100-01-01T01:00:00Z"}})
    await scheduled.ahead(3_600_000)
    await scheduled.made(trigger_id, "succeeded", "succeeded")


async def test_one_begins_when_the_one_before_has_ended(
    scheduled: Scheduled, tmp_path: Path
) -> None:
    """With ``queue``: it waits for no time that could be told meanwhile."""
    gate = tmp_path / "gate"
    trigger_id = await scheduled.trigger(every=60, overlap="queue", data={"gate": str(gate)})
    await scheduled.ahead(60_000)
    await scheduled.made(trigger_id, "running")
    await scheduled.ahead(60_000)
    _, waits = await scheduled.made(trigger_id, "running", "queued")
    assert "nextAttemptAt" not in waits
    await scheduled.functions.rig.ok("PATCH", f"/v1/triggers/{trigger_id}", json={"enabled": False})
    gate.touch()
    await scheduled.made(trigger_id, "succeeded", "succeeded")


async def test_one_takes_the_place_of_what_runs(scheduled: Scheduled, tmp_path: Path) -> None:
    """With ``replace``: that is canceled, and says why."""
    gate = tmp_path / "gate"
    trigger_id = await scheduled.trigger(every=60, overlap="replace", data={"gate": str(gate)})
    await scheduled.ahead(60_000)
    (first,) = await scheduled.made(trigger_id, "running")
    await scheduled.ahead(60_000)
    await scheduled.functions.rig.ok("PATCH", f"/v1/triggers/{trigger_id}", json={"enabled": False})
    old, _ = await scheduled.made(trigger_id, "canceled", "running")
    assert (old["id"], old["reason"]) == (first["id"], "superseded")
    gate.touch()
    await scheduled.made(trigger_id, "canceled", "succeeded")


async def previewed(rig: Rig, **body: Any) -> Json:
    return await rig.ok("POST", PATH, json=body)


@pytest.mark.contract("previewSchedule")
async def test_a_preview_tells_times_and_what_the_clock_does(rig: Rig) -> None:
    """The next five, or as many as are asked for, of any kind of schedule."""
    morning = await previewed(
        rig,
        cron="30 2 * * *",
        timeZone="Europe/Berlin",
        count=3,
        **{"from": "2026-03-27T12:00:00Z"},
    )
    assert morning["times"] == [
        "2026-03-28T01:30:00.000Z",
        "2026-03-29T01:00:00.000Z",
        "2026-03-30T00:30:00.000Z",
    ]
    (remark,) = morning["remarks"]
    assert "2026-03-29 02:30 does not exist in Europe/Berlin" in remark
    every = await previewed(rig, every=3_600, **{"from": "2026-03-27T12:00:00Z"})
    assert every == {
        "times": [f"2026-03-27T{hour}:00:00.000Z" for hour in range(13, 18)],
        "remarks": [],
    }
    once = {"at": "2026-12-01T09:00:00+01:00"}
    assert (await previewed(rig, **once, **{"from": "2026-01-01"}))["times"] == [
        "2026-12-01T08:00:00.000Z"
    ]
    assert (await previewed(rig, **once, **{"from": "2027-01-01"}))["times"] == []
    assert len((await previewed(rig, cron="* * * * *"))["times"]) == 5
    assert len((await previewed(rig, cron="* * * * *", count=50))["times"]) == 50


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "cron"),
        ({"cron": "* * * * *", "every": 60}, "every"),
        ({"cron": "61 * * * *"}, "cron"),
        ({"cron": "* * * * * *"}, "cron"),
        ({"cron": "@reboot"}, "cron"),
        ({"cron": "0 0 30 2 *"}, "cron"),
        ({"cron": "*" * 257}, "cron"),
        ({"cron": "* * * * *", "timeZone": "Mars/Olympus"}, "timeZone"),
        ({"cron": "* * * * *", "timeZone": "../../etc/passwd"}, "timeZone"),
        ({"every": 60, "timeZone": "Europe/Berlin"}, "timeZone"),
        ({"every": 9}, "every"),
        ({"every": 10**30}, "every"),
        ({"at": "tomorrow"}, "at"),
        ({"every": 60, "from": "now"}, "from"),
        ({"every": 60, "count": 51}, "count"),
        ({"every": 60, "count": 0}, "count"),
        ({"every": 60, "tz": "UTC"}, "tz"),
    ],
    ids=json.dumps,
)
async def test_a_preview_says_what_is_wrong(rig: Rig, body: Json, field: str) -> None:
    problem = await rig.refused(400, "POST", PATH, json=body)
    assert [each["field"] for each in problem["errors"]] == [field]
