"""Flow control with instances: the server as it is, adapters as they are."""

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from .function_node import FunctionNode
from .rig import Json, eventually, until
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
ONE = {"type": "concurrency", "limit": 1, "key": "data.customer"}


def tells(folder: Path, *lines: str) -> str:
    """Return code that writes down when it begins and ends, and between does what is said."""
    return "\n".join(
        (
            "import os, time, cakework_functions",
            "from pathlib import Path",
            f"told, gate = Path({str(folder / 'told')!r}), Path({str(folder / 'gate')!r})",
            "def tell(what, data):",
            "    with told.open('a') as file:",
            "        file.write(f\"{what} {data['customer']} {data['n']}\\n\")",
            "def handler(event, context):",
            "    data = event['data']",
            "    tell('begin', data)",
            *(f"    {line}" for line in lines),
            "    tell('end', data)",
            "    return data['n']",
        )
    )


def told(folder: Path) -> list[tuple[str, str, int]]:
    """Return what was written down."""
    file = folder / "told"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(what, customer, int(n)) for what, customer, n in (each.split() for each in lines)]


@pytest.fixture
async def functions(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Functions]:
    """On SQLite; test_flow.py has the rules on either store."""
    async with served(folder, hosting, None) as made:
        yield made


def data(n: int, customer: str = "a") -> Json:
    return {"n": n, "customer": customer}


async def test_work_of_one_key_runs_one_after_the_other(
    functions: Functions, tmp_path: Path
) -> None:
    """Of three keys at once, in the order in which it was accepted, also over failures and retries,
    and where VMs end. All is done."""
    code = tells(
        tmp_path,
        "if data['n'] % 10 == 4 and context.attempt == 1:",
        "    raise ValueError('not yet')",
        "if data['n'] == 15 and context.attempt == 1:",
        "    os._exit(3)",
        "time.sleep(0.01)",
    )
    retry = {"minDelay": 1, "maxDelay": 1}
    settings = {"limits": [ONE], "retry": retry, "maxInstances": 4}
    function_id = await functions.made(code, settings=settings)
    queued: list[Json] = []
    for n in range(30):
        some = await asyncio.gather(
            *(functions.queue(function_id, data(n, customer)) for customer in "abc")
        )
        queued += some
    ended = [await functions.settled(each["id"]) for each in queued]
    assert {each["state"] for each in ended} == {"succeeded"}
    for customer in "abc":
        theirs = [(what, n) for what, whose, n in told(tmp_path) if whose == customer]
        expected: list[tuple[str, int]] = []
        for n in range(30):
            if n % 10 == 4 or n == 15:
                expected.append(("begin", n))
            expected += [("begin", n), ("end", n)]
        assert theirs == expected


async def test_what_is_held_is_shown_as_queued_without_a_time(
    functions: Functions, tmp_path: Path
) -> None:
    code = tells(tmp_path, "while not gate.exists():", "    time.sleep(0.01)")
    function_id = await functions.made(code, settings={"limits": [ONE]})
    first = await functions.queue(function_id, data(1))
    await until(lambda: told(tmp_path), "the first has begun")
    second = await functions.queue(function_id, data(2))
    assert (second["state"], "nextAttemptAt" in second) == ("queued", False)
    sync = await functions.invoke(function_id, data(3), wait=0)
    assert (sync["state"], "nextAttemptAt" in sync) == ("queued", False)
    (tmp_path / "gate").touch()
    for each in (first, second, sync):
        assert (await functions.settled(each["id"]))["state"] == "succeeded"
    assert [n for what, _, n in told(tmp_path) if what == "begin"] == [1, 2, 3]


async def test_a_caller_who_waits_finds_a_free_place_at_once(functions: Functions) -> None:
    """It is begun with the transaction that records it, as without rules."""
    code = "def handler(event, context):\n    return event['data']\n"
    function_id = await functions.made(code, settings={"limits": [ONE]})
    starts: list[str] = []
    for n in range(3):
        found = await functions.invoke(function_id, data(n))
        assert (found["state"], found["result"]) == ("succeeded", data(n))
        starts.append(found["attempts"][0]["start"])
    assert starts[1:] == ["warm", "warm"]


@pytest.mark.parametrize("how", ["timeout", "crash", "canceled", "deleted"])
async def test_a_place_is_free_when_an_instance_ends(
    functions: Functions, tmp_path: Path, how: str
) -> None:
    code = tells(
        tmp_path,
        "if data['n'] == 1 and not gate.exists():",
        "    os._exit(3) if data.get('exits') else time.sleep(600)",
    )
    settings = {"limits": [ONE], "retry": {"maxAttempts": 1}, "timeout": 5}
    if how in ("canceled", "deleted"):
        settings["timeout"] = 600
    function_id = await functions.made(code, settings=settings)
    first = await functions.queue(function_id, {**data(1), "exits": how == "crash"})
    second = await functions.queue(function_id, data(2))
    await until(lambda: told(tmp_path), "the first has begun")
    if how == "canceled":
        await functions.rig.ok("POST", f"/v1/invocations/{first['id']}/cancel")
    if how == "deleted":
        await functions.rig.ok("DELETE", f"/v1/functions/{function_id}")
    ends = [await functions.settled(each["id"]) for each in (first, second)]
    reasons = {"canceled": "canceled_by_caller", "deleted": "function_deleted"}
    assert ends[0]["reason"] == reasons.get(how, how)
    if how == "deleted":
        assert (ends[1]["state"], ends[1]["reason"]) == ("canceled", "function_deleted")
    else:
        assert ends[1]["state"] == "succeeded"


async def test_the_running_one_gives_way_to_the_newest(
    functions: Functions, tmp_path: Path
) -> None:
    code = tells(tmp_path, "if data['n'] == 1:", "    time.sleep(600)")
    rule = {**ONE, "strategy": "replace"}
    function_id = await functions.made(code, settings={"limits": [rule]})
    first = await functions.queue(function_id, data(1))
    await until(lambda: told(tmp_path), "the first has begun")
    second = await functions.queue(function_id, data(2))
    assert (await functions.settled(second["id"]))["state"] == "succeeded"
    gone = await functions.settled(first["id"])
    assert (gone["state"], gone["reason"]) == ("canceled", "superseded")


async def test_what_is_held_is_let_go_by_the_next_server(
    folder: Path, hosting: FunctionNode, database_url: str | None, tmp_path: Path
) -> None:
    code = tells(tmp_path, "while not gate.exists():", "    time.sleep(0.01)")
    limits = [ONE, {"type": "throttle", "limit": 1, "period": 1}]
    async with served(folder, hosting, database_url) as before:
        function_id = await before.made(code, settings={"limits": limits})
        queued = [await before.queue(function_id, data(n)) for n in range(3)]
        await until(lambda: told(tmp_path), "the first has begun")
    (tmp_path / "gate").touch()
    async with served(folder, hosting, database_url) as after:
        ended = [await after.settled(each["id"]) for each in queued]
    assert [each["result"] for each in ended] == [0, 1, 2]
    assert [n for what, _, n in told(tmp_path) if what == "end"] == [0, 1, 2]


async def test_what_is_gathered_comes_as_one(functions: Functions) -> None:
    code = (
        "def handler(event, context):\n    return [each['data']['n'] for each in event['data']]\n"
    )
    limits = [{"type": "batch", "maxSize": 3, "maxWait": 300}]
    function_id = await functions.made(code, settings={"limits": limits})
    queued = [await functions.queue(function_id, data(n)) for n in range(3)]
    assert len({each["id"] for each in queued}) == 1
    ended = await functions.settled(queued[0]["id"])
    assert (ended["state"], ended["result"]) == ("succeeded", [0, 1, 2])
    found = await functions.rig.ok("GET", "/v1/invocations")
    assert len(found["invocations"]) == 1


async def test_of_what_is_gathered_only_what_failed_comes_again(
    functions: Functions, tmp_path: Path
) -> None:
    """Also when it is replayed; what names no event of it is a result like any other."""
    code = "\n".join(
        (
            "from pathlib import Path",
            f"told, gate = Path({str(tmp_path / 'told')!r}), Path({str(tmp_path / 'gate')!r})",
            "def handler(event, context):",
            "    found = event['data']",
            "    with told.open('a') as file:",
            "        file.write(' '.join(str(each['data']) for each in found) + '\\n')",
            "    if gate.exists():",
            "        return {'failed': ['none of these']}",
            "    return {'failed': [each['id'] for each in found if each['data'] % 2]}",
        )
    )
    limits = [{"type": "batch", "maxSize": 4, "maxWait": 300}]
    retry = {"maxAttempts": 2, "minDelay": 1, "maxDelay": 1}
    function_id = await functions.made(code, settings={"limits": limits, "retry": retry})
    queued = [await functions.queue(function_id, n) for n in range(4)]
    ended = await functions.settled(queued[0]["id"])
    assert (ended["state"], ended["reason"]) == ("failed", "handler_error")
    assert ended["error"]["type"] == "PartlyFailed"
    assert [each["data"] for each in ended["event"]["data"]] == [1, 3]
    (tmp_path / "gate").touch()
    again = await functions.rig.ok("POST", f"/v1/invocations/{ended['id']}/replay", json={})
    done = await functions.settled(again["id"])
    assert (done["state"], done["result"]) == ("succeeded", {"failed": ["none of these"]})
    assert (tmp_path / "told").read_text().splitlines() == ["0 1 2 3", "1 3", "1 3"]


async def test_rules_are_settings_of_functions_and_triggers(functions: Functions) -> None:
    rig = functions.rig
    body: Json = {"name": "f", "runtime": "python3.11", "settings": {"limits": [ONE]}}
    made = await rig.ok("POST", "/v1/functions", json=body)
    whole = {**ONE, "strategy": "queue", "onRetry": "keepPlace"}
    assert made["settings"]["limits"] == [whole]
    path = f"/v1/functions/{made['id']}"
    rate = {"type": "rate", "limit": 1, "period": 1}
    changed = await rig.ok("PATCH", path, json={"settings": {"limits": [rate]}})
    assert [each["type"] for each in changed["settings"]["limits"]] == ["rate"]
    wrong: list[object] = [[rate, rate], [{**rate, "other": 1}], [{**rate, "period": 0}], "rate"]
    for bad in wrong:
        await rig.refused(400, "PATCH", path, json={"settings": {"limits": bad}})
    asked: dict[str, Any] = {"functionId": made["id"], "type": "event", "config": {"types": ["a"]}}
    await rig.refused(400, "POST", "/v1/triggers", json={**asked, "limits": [rate, rate]})
    trigger = await rig.ok("POST", "/v1/triggers", json={**asked, "limits": [ONE]})
    assert trigger["limits"] == [whole]
    path = f"/v1/triggers/{trigger['id']}"
    changed = await rig.ok("PATCH", path, json={"limits": [rate]})
    assert [each["type"] for each in changed["limits"]] == ["rate"]
    assert "limits" not in await rig.ok("PATCH", path, json={"limits": None})


async def test_a_higher_limit_lets_more_begin(functions: Functions, tmp_path: Path) -> None:
    code = tells(tmp_path, "while not gate.exists():", "    time.sleep(0.01)")
    function_id = await functions.made(code, settings={"limits": [ONE]})
    queued = [await functions.queue(function_id, data(n)) for n in range(3)]
    await until(lambda: told(tmp_path), "the first has begun")
    path, limits = f"/v1/functions/{function_id}", [{**ONE, "limit": 3}]
    await functions.rig.ok("PATCH", path, json={"settings": {"limits": limits}})

    async def begun() -> bool:
        return len(told(tmp_path)) == 3

    await eventually(begun, "all have begun")
    (tmp_path / "gate").touch()
    for each in queued:
        assert (await functions.settled(each["id"]))["state"] == "succeeded"
