"""kill -9 of the server at every step of functions: what was taken is done, as often as it may be,
no two attempts of one invocation run at once, what became of it is told, and nothing is left over.
"""

import json
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cakework.domain.steps import Step
from tests.acceptance.api import Api
from tests.acceptance.waiting import until
from tests.integration.faults.function_parts import (
    SETTLED_S,
    FunctionParts,
    Json,
    answered,
    serving,
)
from tests.integration.server.function_node import source
from tests.integration.server.receiver import Receiver, receiving
from tests.properties import examples

pytestmark = pytest.mark.timeout(600)
WITNESS = """\
import os, time
from pathlib import Path
witness = Path({witness!r})

def told(event, context, what):
    line = f"{{what}} {{context.invocation_id}} {{context.attempt}} {{os.getpid()}}\\n"
    with witness.open("a") as file:
        file.write(line)

def handler(event, context):
    told(event, context, "begin")
    data = event.get("data") or {{}}
    gate = data.get("gate")
    while gate and not Path(gate).exists():
        time.sleep(0.005)
    if data.get("fails") and context.attempt <= data["fails"]:
        told(event, context, "end")
        raise ValueError("not yet")
    if data.get("exits") and context.attempt <= data["exits"]:
        os._exit(3)
    told(event, context, "end")
    return context.attempt
"""
RETRY = {"minDelay": 1, "factor": 1}
TOLD = ["function.deployed", "function.failed", "invocation.failed", "invocation.succeeded"]


@dataclass
class World:
    """A server, its API, and a function whose handler tells a file outside when it runs."""

    parts: FunctionParts
    api: Api
    witness: Path
    receiver: Receiver
    function_id: str = ""

    def code(self) -> str:
        return WITNESS.format(witness=str(self.witness))

    def seen(self, invocation_id: str) -> list[tuple[str, int, int]]:
        """Return what the handler told of an invocation: begin or end, attempt, process."""
        lines = [line.split() for line in self.witness.read_text().splitlines()]
        return [
            (what, int(attempt), int(pid))
            for what, whose, attempt, pid in lines
            if whose == invocation_id
        ]

    def ended(self, invocation_id: str) -> Json:
        path = f"/v1/invocations/{invocation_id}"
        final = ("succeeded", "failed", "canceled", "expired")

        def look() -> Json | None:
            found = self.api.get(path)
            return found if found["state"] in final else None

        return until(look, SETTLED_S, lambda: f"{invocation_id} ends: {self.parts.tail()}")

    def is_ready(self, function_id: str, number: int) -> Json:
        path = f"/v1/functions/{function_id}/versions/{number}"

        def look() -> Json | None:
            version = self.api.get(path)
            assert version["state"] != "failed", version
            return version if version["state"] == "ready" else None

        return until(look, SETTLED_S, lambda: f"{path} is made: {self.parts.tail()}")

    def is_undoubled(self) -> None:
        """Every attempt ran once, and none while one before it did."""
        open_at: dict[str, tuple[int, int]] = {}
        begun: set[tuple[str, int]] = set()
        for line in self.witness.read_text().splitlines():
            what, invocation_id, attempt, pid = line.split()
            if what == "begin":
                assert (invocation_id, int(attempt)) not in begun, f"{line} runs twice"
                begun.add((invocation_id, int(attempt)))
                if (before := open_at.get(invocation_id)) is not None:
                    assert not _lives(before[1]), f"{line} began while {before} ran"
                open_at[invocation_id] = int(attempt), int(pid)
            else:
                open_at.pop(invocation_id, None)


def _lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with (
        tempfile.TemporaryDirectory(prefix="cw-", dir="/tmp") as folder,
        tempfile.TemporaryDirectory(prefix="cw-", dir="/tmp") as machines,
    ):
        with receiving() as receiver, serving(Path(folder), Path(machines)) as (parts, api):
            made = World(parts, api, Path(machines, "witness"), receiver)
            api.post("/v1/webhooks", {"url": receiver.url, "events": TOLD})
            made.witness.touch()
            body = {
                "name": "witness",
                "runtime": "python3.11",
                "source": source(made.code()),
                "settings": {"retry": RETRY, "idleTimeout": 3600},
            }
            made.function_id = api.post("/v1/functions", body)["id"]
            made.is_ready(made.function_id, 1)
            made.parts.settle()
            yield made
        log = (Path(folder) / "server.log").read_text()
    assert "Traceback" not in log, log[max(0, log.index("Traceback") - 2000) :][:6000]


def deploys(world: World, during: Callable[[], None]) -> None:
    """A version is deployed once, is live, and serves."""
    path = f"/v1/functions/{world.function_id}"
    number = world.api.get(path)["liveVersion"] + 1
    body = {"source": source(world.code() + f"# {number}\n")}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(answered, world.parts, f"{path}/versions", body)
        during()
        assert asked.result()["version"] == number
    world.is_ready(world.function_id, number)
    assert world.api.get(path)["liveVersion"] == number
    done = world.api.post(f"{path}/invoke", {"data": {}})
    assert (done["state"], done["version"]) == ("succeeded", number)
    assert len(world.api.get(f"{path}/versions")["versions"]) == number


def succeeds(world: World, during: Callable[[], None]) -> None:
    """What was taken is done, with one attempt, once."""
    queued = _queued(world, during, {})
    ended = world.ended(queued["id"])
    assert (ended["state"], ended["result"]) == ("succeeded", 1), ended
    assert [each["outcome"] for each in ended["attempts"]] == ["succeeded"]
    assert [each[:2] for each in world.seen(queued["id"])] == [("begin", 1), ("end", 1)]


def fails(world: World, during: Callable[[], None]) -> None:
    """What fails is tried again, and each attempt tells how it ended."""
    queued = _queued(world, during, {"fails": 1})
    ended = world.ended(queued["id"])
    assert (ended["state"], ended["result"]) == ("succeeded", 2), ended
    assert [each["outcome"] for each in ended["attempts"]] == ["handler_error", "succeeded"]
    assert [each[1] for each in world.seen(queued["id"])] == [1, 1, 2, 2]


def exits(world: World, during: Callable[[], None]) -> None:
    """What ends its instance is tried again, and that is told."""
    queued = _queued(world, during, {"exits": 1})
    ended = world.ended(queued["id"])
    assert (ended["state"], ended["result"]) == ("succeeded", 2), ended
    assert [each["outcome"] for each in ended["attempts"]] == ["crash", "succeeded"]
    assert [each[:2] for each in world.seen(queued["id"])] == [
        ("begin", 1),
        ("begin", 2),
        ("end", 2),
    ]


def fires(world: World, during: Callable[[], None]) -> None:
    """What is due once is done once."""
    before = len(world.parts.rows("invocations"))
    trigger_id, at_ms = _due_in(world, 500)
    during()
    (made,) = until(lambda: _made_by(world, trigger_id), SETTLED_S, world.parts.tail)
    assert world.ended(made["id"])["state"] == "succeeded"
    assert made["scheduled_ms"] == at_ms
    assert len(world.parts.rows("invocations")) == before + 1


def emits(world: World, during: Callable[[], None]) -> None:
    """What was emitted once is there once, and makes what it makes once."""
    _emitted(world, during, 1)


def fans_out(world: World, during: Callable[[], None]) -> None:
    """Each trigger gets an event once, also those to which the loop gives it."""
    _emitted(world, during, 130)


def _emitted(world: World, during: Callable[[], None], triggers: int) -> None:
    kind = f"t{len(world.parts.rows('events'))}"
    body = {"functionId": world.function_id, "type": "event", "config": {"types": [kind]}}
    ids = {answered(world.parts, "/v1/triggers", body)["id"] for _ in range(triggers)}
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(answered, world.parts, "/v1/events", {"events": [{"type": kind}]})
        during()
        (event,) = asked.result()["events"]
    assert event["duplicate"] is False

    def made() -> list[Json]:
        return [row for row in world.parts.rows("invocations") if row["event_id"] == event["id"]]

    until(lambda: len(made()) >= triggers, SETTLED_S, world.parts.tail)
    for row in made():
        assert world.ended(row["id"])["state"] == "succeeded"
    assert sorted(row["trigger_id"] for row in made()) == sorted(ids)
    (kept,) = (row for row in world.parts.rows("events") if row["type"] == kind)
    assert (kept["id"], kept["made"], kept["after"]) == (event["id"], triggers, None)


def _due_in(world: World, wait_ms: int) -> tuple[str, int]:
    """Make a trigger that is due once, soon; return its id, and when it is."""
    while True:
        at_ms = time.time_ns() // 1_000_000 + wait_ms
        at = datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds")
        body = {"functionId": world.function_id, "type": "cron", "config": {"at": at}}
        made = answered(world.parts, "/v1/triggers", body)
        if made["state"] == "active":
            return made["id"], at_ms
        # It took longer than that to make it.
        wait_ms *= 2


def _made_by(world: World, trigger_id: str) -> list[Json]:
    return [row for row in world.parts.rows("invocations") if row["trigger_id"] == trigger_id]


def _queued(world: World, during: Callable[[], None], data: Json) -> Json:
    before = len(world.parts.rows("invocations"))
    path = f"/v1/functions/{world.function_id}/invoke"
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(answered, world.parts, path, {"mode": "async", "data": data})
        during()
        queued = asked.result()
    assert len(world.parts.rows("invocations")) == before + 1
    return queued


PASSED_BY = {
    Step.SERVER_VERSION_LOADED: (deploys,),
    Step.SERVER_VERSION_KEPT: (deploys,),
    Step.SERVER_VERSION_PROMOTED: (deploys,),
    Step.SERVER_INSTANCE_RESERVED: (succeeds,),
    Step.SERVER_INSTANCE_STARTED: (succeeds,),
    Step.SERVER_INVOCATION_ACCEPTED: (succeeds,),
    Step.SERVER_INVOCATION_CLAIMED: (succeeds,),
    Step.SERVER_ATTEMPT_ANSWERED: (succeeds, fails),
    Step.SERVER_ATTEMPT_NOTED: (fails,),
    Step.SERVER_INSTANCE_ENDED: (fails, exits),
    Step.SERVER_INVOCATION_SETTLED: (succeeds, fails, exits),
    Step.SERVER_SCHEDULE_WRITTEN: (fires,),
    Step.SERVER_SCHEDULE_FIRED: (fires,),
    Step.SERVER_EVENT_ACCEPTED: (emits,),
    Step.SERVER_EVENT_FANNED: (fans_out,),
}
LOAD = min(100, examples(8))
STEPS = set(PASSED_BY)
"""All that these tests pass."""
CASES = [(step, each) for step, operations in PASSED_BY.items() for each in operations]
COLD = {Step.SERVER_INSTANCE_RESERVED, Step.SERVER_INSTANCE_STARTED}


@pytest.mark.parametrize(
    ("step", "operation"), CASES, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_kill_at(
    world: World, step: Step, operation: Callable[[World, Callable[[], None]], None]
) -> None:
    """The server dies there once, and starts again."""
    if step in COLD:
        # No instance is left: the work has one started.
        for row in world.parts.rows("function_instances"):
            world.parts.portal.call(world.parts.node.kill, row["vm_id"])
        until(lambda: not world.parts.rows("function_instances"), SETTLED_S, "all went")
    world.parts.lay(step)
    operation(world, lambda: world.parts.revive(step))
    world.parts.settle()
    world.is_undoubled()
    _is_conserved(world)


def test_kill_while_it_runs(world: World, tmp_path: Path) -> None:
    """Attempts go on without their server, each once; that of a VM which ends meanwhile is made
    again, and is known to have been interrupted or to have crashed by what its node says."""
    gate = tmp_path / "gate"
    path = f"/v1/functions/{world.function_id}/invoke"
    body = {"mode": "async", "data": {"gate": str(gate)}}
    ids = [answered(world.parts, path, body)["id"] for _ in range(3)]

    def all_run() -> bool:
        return all(world.seen(each) for each in ids)

    until(all_run, SETTLED_S, "all run")
    world.parts.kill()
    victim = world.api.get(f"/v1/invocations/{ids[0]}")["attempts"][-1]["vmId"]
    world.parts.portal.call(world.parts.node.kill, victim)
    until(lambda: len(world.seen(ids[0])) > 1, SETTLED_S, "the lost one is made again")
    gate.touch()
    ended = [world.ended(each) for each in ids]
    assert [each["result"] for each in ended] == [2, 1, 1]
    assert [each["outcome"] for each in ended[0]["attempts"]] == ["crash", "succeeded"]
    world.parts.settle()
    world.is_undoubled()
    _is_conserved(world)


def test_kill_under_load(world: World) -> None:
    """At moments that nobody chose: the server, the node, both, and the programs of VMs. All that
    was answered as taken is done, each piece with one attempt at a time."""
    chance = random.Random(11)
    kills = iter(["server", "node", "both", "program"] * LOAD)
    path = f"/v1/functions/{world.function_id}/invoke"
    ids: list[str] = []
    for number in range(LOAD):
        data = {"fails": chance.choice([0, 0, 1]), "exits": chance.choice([0, 0, 0, 1])}
        ids.append(answered(world.parts, path, {"mode": "async", "data": data})["id"])
        if number % 4 == 3:
            _end_some(world, next(kills), chance)
    ended = [world.ended(each) for each in ids]
    assert {each["state"] for each in ended} == {"succeeded"}, ended
    for each in ended:
        assert each["result"] == each["attempt"] == len(each["attempts"])
        assert {one["outcome"] for one in each["attempts"][:-1]} <= {"crash", "handler_error"}
    world.parts.settle()
    world.is_undoubled()
    _is_conserved(world)


def test_kill_while_schedules_come_round(world: World) -> None:
    """At moments that nobody chose: each of what is due meanwhile is made once, for its time."""
    chance = random.Random(5)
    due: dict[str, int] = {}
    for _ in range(examples(20)):
        due |= dict(_due_in(world, chance.randrange(200, 1_000)) for _ in range(5))
        until_s = time.monotonic() + chance.uniform(0.1, 1.0)
        until(lambda until_s=until_s: time.monotonic() > until_s, SETTLED_S, "it is time")
        world.parts.kill(ready=False)

    def all_made() -> bool:
        return due.keys() <= {row["trigger_id"] for row in world.parts.rows("invocations")}

    until(all_made, SETTLED_S, lambda: f"all are made: {world.parts.tail()}")
    world.parts.settle()
    made = [row for row in world.parts.rows("invocations") if row["trigger_id"] in due]
    assert {row["trigger_id"]: row["scheduled_ms"] for row in made} == due
    assert len(made) == len(due)
    world.is_undoubled()
    _is_conserved(world)


def _end_some(world: World, what: str, chance: random.Random) -> None:
    if what in ("node", "both"):
        world.parts.portal.call(world.parts.node.leave)
    if what in ("server", "both"):
        world.parts.kill(ready=what == "server")
    if what in ("node", "both"):
        world.parts.portal.call(world.parts.node.come_back)
    if what == "program":
        for vm_id in chance.sample(sorted(world.parts.node.hosted), 1):
            world.parts.portal.call(world.parts.node.kill, vm_id)


def _is_conserved(world: World) -> None:
    """What was accepted is settled, and every end of it is told, under one id."""
    rows = world.parts.rows("invocations")
    assert {row["state"] for row in rows} == {"succeeded"}, rows
    versions = [str(row["number"]) for row in world.parts.rows("function_versions")]

    def delivered() -> bool:
        log = world.parts.rows("webhook_deliveries")
        return all(row["status"] == "succeeded" for row in log)

    until(delivered, SETTLED_S, lambda: f"all is delivered: {world.parts.tail()}")
    told = {each.id: _about(each.body) for each in world.receiver.received}
    assert sorted(told.values()) == sorted(
        [("invocation.succeeded", row["id"]) for row in rows]
        + [("function.deployed", number) for number in versions]
    )


def _about(body: bytes) -> tuple[str, str]:
    message = json.loads(body)
    data = message["data"]
    return message["type"], data.get("id") or str(data["version"])
