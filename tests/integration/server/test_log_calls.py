import asyncio
import contextlib
import json
import sqlite3
import threading
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from cakework.domain.facts import BuildLine
from cakework.domain.ids import AccountId, VmId
from cakework.server.api import logs
from cakework.server.api.times import rfc3339
from cakework.server.logs import file
from cakework.server.logs.lines import LineQuery, Page, vm_source
from cakework.server.logs.search import Bounds
from cakework.server.logs.store import READERS
from cakework.server.services.logs import Logs, VmLog

from .fake_node import START_MS, FakeNode
from .rig import Event, Rig, as_problem, events, running, settings_for, until

pytestmark = pytest.mark.anyio
ACCOUNT = AccountId("default")


async def logged(rig: Rig, *messages: str) -> str:
    """Start a VM that prints these messages; returns the path of its log."""
    vm_id = (await rig.vm())["id"]
    await rig.node.push(*(rig.node.line(vm_id, message) for message in messages))
    path = f"/v1/vm/{vm_id}/logs"
    await rig.messages(path, len(messages))
    return path


async def pages(rig: Rig, path: str, **params: Any) -> list[list[str]]:
    """Read a log page by page, sending back what each page gives; returns their messages."""
    found: list[list[str]] = []
    while True:
        page = await rig.ok("GET", path, params=params)
        found.append([line["message"] for line in page["lines"]])
        if "pagination" not in page:
            return found
        params |= {name: page[name] for name in ("pagination", "from", "to")}


async def test_a_line_has_every_field_of_the_contract(rig: Rig) -> None:
    """id, timestamp in milliseconds, level by stream, message as printed."""
    vm_id = (await rig.vm())["id"]
    await rig.node.push(
        rig.node.line(vm_id, "out \x1b[1m <b>\u2028\0"), rig.node.line(vm_id, "err", "stderr")
    )
    await rig.messages(f"/v1/vm/{vm_id}/logs", 2)
    assert await rig.ok("GET", f"/v1/vm/{vm_id}/logs") == {
        "lines": [
            {
                "id": 1,
                "timestamp": START_MS + 1,
                "level": "info",
                "message": "out \x1b[1m <b>\u2028\0",
            },
            {"id": 2, "timestamp": START_MS + 2, "level": "error", "message": "err"},
        ]
    }


async def test_a_builds_log_is_the_same_in_both_spellings(rig: Rig) -> None:
    """/v1/image/build/{id}/logs and /v1/function/build/{id}/logs answer alike."""
    build_id = (await rig.build())["buildId"]
    await rig.node.push(rig.node.build_line(build_id, "STEP 1"))
    path = f"/v1/image/build/{build_id}/logs"
    assert await rig.messages(path, 1) == ["STEP 1"]
    assert await rig.ok("GET", path) == await rig.ok("GET", path.replace("image", "function"))


async def test_pages_follow_each_other_in_both_orders(rig: Rig) -> None:
    """A page has ``batch`` lines; sent back, its tokens give the next; order is by time."""
    path = await logged(rig, *(f"{number}" for number in range(120)))
    numbers = [f"{number}" for number in range(120)]
    assert await pages(rig, path, batch=50) == [numbers[:50], numbers[50:100], numbers[100:]]
    backwards = numbers[::-1]
    newest = await pages(rig, path, batch=50, order="newest_first")
    assert newest == [backwards[:50], backwards[50:100], backwards[100:]]
    assert await pages(rig, path) == [numbers[:100], numbers[100:]]


async def test_lines_are_found_without_regard_to_case(rig: Rig) -> None:
    """``query`` is a substring, also beyond ASCII; empty finds every line."""
    path = await logged(rig, "GRÜẞE", "grüsse", "nothing", "100%")
    assert await pages(rig, path, query="GRÜSSE") == [["GRÜẞE", "grüsse"]]
    assert await pages(rig, path, query="%") == [["100%"]]
    assert len((await pages(rig, path, query=""))[0]) == 4


@pytest.mark.parametrize("zone", ["+0000", " UTC", "Z", "", " 0000"])
async def test_a_range_takes_the_spellings_of_iso_8601(rig: Rig, zone: str) -> None:
    """from and to are inclusive, however the zone is written."""
    path = await logged(rig, "one", "two", "three")
    at = rfc3339(START_MS + 2).removesuffix("Z") + zone
    assert await pages(rig, path, **{"from": at}) == [["two", "three"]]
    assert await pages(rig, path, to=at) == [["one", "two"]]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"batch": 49}, "batch"),
        ({"batch": 1001}, "batch"),
        *(({"batch": bad}, "batch") for bad in ("ten", "1e2", "50.0", " 60", "+60", "")),
        ({"order": "sideways"}, "order"),
        ({"from": "yesterday"}, "from"),
        ({"to": "2022-02-30"}, "to"),
        ({"from": "2022-01-02", "to": "2022-01-01"}, "from"),
        ({"pagination": "nonsense"}, "pagination"),
        ({"query": "x" * 501}, "query"),
        ({"follow": "maybe"}, "follow"),
        ({"follow": "true", "order": "newest_first"}, "order"),
        ({"follow": "true", "pagination": "x"}, "pagination"),
    ],
)
async def test_a_query_that_is_not_valid_is_refused(
    folder: Path, node: FakeNode, params: dict[str, Any], field: str
) -> None:
    """400 names the parameter at fault."""
    async with running(settings_for(folder, None), node) as rig:
        path = f"/v1/vm/{(await rig.vm())['id']}/logs"
        problem = await rig.refused(400, "GET", path, params=params)
        assert [error["field"] for error in problem["errors"]] == [field]


async def test_a_token_of_the_other_order_is_refused(rig: Rig) -> None:
    """A token goes with the order it was given for."""
    path = await logged(rig, *(f"{number}" for number in range(60)))
    token = (await rig.ok("GET", path, params={"batch": 50}))["pagination"]
    params = {"pagination": token, "order": "newest_first"}
    problem = await rig.refused(400, "GET", path, params=params)
    assert problem["errors"][0]["field"] == "pagination"


async def test_the_newest_lines_are_kept(folder: Path, node: FakeNode) -> None:
    """A log keeps max_log_lines, and the line numbers tell what is gone."""
    async with running(settings_for(folder, None, max_log_lines=1000), node) as rig:
        vm_id = (await rig.vm())["id"]
        await node.push(*(node.line(vm_id, f"{number}") for number in range(1, 2501)))
        path = f"/v1/vm/{vm_id}/logs"

        await until(lambda: node.acks and node.acks[-1] >= 2500, "every line is stored")
        page = await rig.ok("GET", path, params={"batch": 1000})
        assert [line["id"] for line in page["lines"]] == list(range(1501, 2501))


async def followed(
    rig: Rig, path: str, count: int, last: str | None = None, **query: str
) -> list[Event]:
    """Follow a log; returns its first events, heartbeats left out."""
    headers = {"Last-Event-ID": last} if last else {}
    params = {"follow": "true", **query}
    found: list[Event] = []
    async with rig.client.stream("GET", path, params=params, headers=headers) as stream:
        assert stream.headers["content-type"].startswith("text/event-stream")
        async for event in events(stream):
            if event.name != "comment":
                found.append(event)
            if len(found) == count:
                break
    return found


async def test_followed_lines_come_as_they_are_printed_and_end_with_the_vm(rig: Rig) -> None:
    """Each event has the line's id; when the VM has stopped and the log is whole comes ``end``."""
    path = await logged(rig, "before")
    vm_id = path.split("/")[3]
    async with rig.client.stream("GET", path, params={"follow": "true"}) as stream:
        stream_of = events(stream)

        async def following() -> Event:
            async for event in stream_of:
                if event.name != "comment":
                    return event
            raise AssertionError("the stream ended without an end")

        first = await following()
        assert (first.id, first.message) == ("1", "before")
        await rig.node.push(rig.node.line(vm_id, "after\r\nid: 9"))
        second = await following()
        assert (second.id, second.message) == ("2", "after\r\nid: 9")
        await rig.node.push(rig.node.line(vm_id, "last"))
        await rig.node.stopped(vm_id, "The program ended.", 0)
        assert (await following()).message == "last"
        assert (await following()).name == "end"
        with pytest.raises(AssertionError):
            await following()


async def test_following_goes_on_behind_the_last_event(rig: Rig) -> None:
    """Last-Event-ID is where a stream that broke off is taken up."""
    path = await logged(rig, "one", "two", "three")
    found = await followed(rig, path, 1, last="2")
    assert [event.message for event in found] == ["three"]
    headers = {"Last-Event-ID": "x"}
    await rig.refused(400, "GET", path, params={"follow": "true"}, headers=headers)


@pytest.mark.parametrize(
    ("query", "wanted"),
    [
        ({"query": "KEEP"}, [1, 3, 5, 6, 8]),
        ({"from": rfc3339(START_MS + 3)}, [3, 4, 5, 6, 7, 8]),
        ({"to": rfc3339(START_MS + 6)}, [1, 2, 3, 4, 5, 6]),
        ({"query": "keep", "from": rfc3339(START_MS + 3), "to": rfc3339(START_MS + 6)}, [3, 5, 6]),
        ({"query": "not in any line"}, []),
    ],
)
async def test_what_is_followed_is_narrowed_as_a_page_is(
    folder: Path, node: FakeNode, query: dict[str, str], wanted: list[int]
) -> None:
    """What was there and what comes meanwhile, of VM and build; ``end`` comes in any case."""
    texts = ("keep", "drop", "Keep", "drop", "keep", "keep", "drop", "keep")
    async with running(settings_for(folder, None), node) as rig:
        vm_id, build_id = (await rig.vm())["id"], (await rig.build())["buildId"]
        await until(lambda: build_id in node.builds, "the node has the build")
        lines = [node.line(vm_id, text) for text in texts]
        built = [
            BuildLine(build_id=build_id, seq=line.seq, stream="stdout", text=text, at_ms=line.at_ms)
            for line, text in zip(lines, texts, strict=True)
        ]
        await node.push(*lines[:4], *built[:4])
        paths = [f"/v1/vm/{vm_id}/logs", f"/v1/image/build/{build_id}/logs"]
        for path in paths:
            await rig.messages(path, 4)
        count = len(wanted) + 1
        following = [asyncio.create_task(followed(rig, path, count, **query)) for path in paths]
        await until(lambda: len(followers_of(rig)) == 2, "both logs are followed")
        await node.push(*lines[4:], *built[4:])
        await node.stopped(vm_id, "The program ended.", 0)
        await node.succeed(build_id)
        for path, task in zip(paths, following, strict=True):
            *found, last = await task
            assert [int(event.id or 0) for event in found] == wanted
            assert last.name == "end"
            page = await rig.ok("GET", path, params=query)
            assert [json.loads(event.data) for event in found] == page["lines"]
            behind = await followed(
                rig, path, len(wanted) or 1, str(wanted[0] if wanted else 1), **query
            )
            assert [event.id for event in behind[:-1]] == [str(seq) for seq in wanted[1:]]


def followers_of(rig: Rig) -> dict[Any, Any]:
    return vars(rig.server.followers)["_waiting"]


async def test_a_log_that_is_whole_is_streamed_to_its_end(rig: Rig) -> None:
    """Following what has ended gives all of it, in order, and ``end``."""
    build_id = (await rig.build())["buildId"]
    await until(lambda: rig.node.build_orders, "the node has the order")
    await rig.node.push(*(rig.node.build_line(build_id, f"{n}") for n in range(1200)))
    await rig.node.succeed(build_id)
    path = f"/v1/function/build/{build_id}/logs"
    await rig.eventually(f"/v1/image/build/{build_id}", status="succeeded")
    found = await followed(rig, path, 1201)
    assert [event.message for event in found[:-1]] == [f"{number}" for number in range(1200)]
    assert found[-1].name == "end"


async def test_a_stopped_vms_log_does_not_end_before_its_last_line(rig: Rig) -> None:
    """stopVM answers before the journal brings the last lines; who follows gets them."""
    path = await logged(rig, "one")
    vm_id = path.split("/")[3]
    following = asyncio.create_task(followed(rig, path, 3))
    await rig.ok("POST", f"/v1/vm/{vm_id}/stop")
    await rig.node.push(rig.node.line(vm_id, "goodbye"))
    await rig.node.stopped(vm_id, "It was stopped.", 143)
    assert [event.data and event.name for event in await following] == [
        *("message", "message", "end")
    ]
    vm = await rig.eventually(f"/v1/vm/{vm_id}", exitCode=143)
    assert (vm["state"], vm["reason"]) == ("destroyed", "It was stopped.")


async def test_a_quiet_log_has_heartbeats(folder: Path, node: FakeNode) -> None:
    """Something comes now and then on a log to which nothing is added."""
    async with running(settings_for(folder, None), node) as rig:
        vm_id = VmId((await rig.vm())["id"])
        parts = rig.server
        logs = Logs(parts.database, parts.log_store, parts.followers, 1, heartbeat_s=0.01)
        following = logs.follow(ACCOUNT, VmLog(vm_id), LineQuery(vm_source(vm_id)))
        assert [await anext(following) for _ in range(3)] == ["quiet"] * 3
        await following.aclose()


async def test_many_followers_cost_no_memory_when_they_do_not_read(rig: Rig) -> None:
    """A client that does not read holds up nobody, and nobody is left when all have gone."""
    path = await logged(rig, "one")
    vm_id = path.split("/")[3]
    async with rig.client.stream("GET", path, params={"follow": "true"}):
        await rig.node.push(*(rig.node.line(vm_id, "x" * 1000) for _ in range(3000)))
        await until(lambda: rig.node.acks and not rig.node.facts, "every line is stored")
        found = await followed(rig, path, 3001)
        assert len(found) == 3001
    await until(lambda: not followers_of(rig), "nobody follows")


async def test_searches_of_one_account_hold_up_no_other(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many it has under way, and however long they take: another's search is done at once,
    and so is all else; its own are told to come again."""
    path = await logged(rig, "one", "two")
    over, begun, really_page = threading.Event(), list[LineQuery](), file.page

    def page(connection: sqlite3.Connection, query: LineQuery) -> Page:
        if query.contains == "endless":
            begun.append(query)
            over.wait(300)
        return really_page(connection, query)

    monkeypatch.setattr(file, "page", page)
    monkeypatch.setattr("cakework.server.services.logs.TURN_S", 0.5)
    theirs = await other_vms_log(rig)
    searching = [
        asyncio.create_task(rig.client.get(path, params={"query": "endless"})) for _ in range(20)
    ]
    with contextlib.ExitStack() as stack:
        stack.callback(over.set)
        await until(lambda: begun, "a search is under way")
        monkeypatch.setattr("cakework.server.services.logs.TURN_S", 60)
        async with await rig.other_account() as other:
            for params in ({"query": "THEIR"}, {}):
                found = await other.get(theirs, params=params)
                assert [line["message"] for line in found.json()["lines"]] == ["theirs"]
        assert len(await rig.messages(path, 2)) == 2
        assert len(begun) == 1
    answers = await asyncio.gather(*searching)
    assert {answer.status_code for answer in answers} <= {200, 429}


@pytest.mark.parametrize("messages", [["x" * 20_000], ["short"] * 1000])
async def test_a_large_page_holds_up_nobody_while_it_is_rendered(
    rig: Rig, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    """Large in bytes or in lines: another's request is answered meanwhile, and then the page is
    what it always is."""
    path = await logged(rig, *messages)
    begun, over = threading.Event(), threading.Event()

    def slowly(lines: Iterable[logs.LogLine], around: logs.LogPage) -> bytes:
        begun.set()
        assert over.wait(30), "nobody else was served"
        return rendered(lines, around)

    rendered = logs.rendered
    monkeypatch.setattr(logs, "rendered", slowly)
    reading = asyncio.create_task(rig.ok("GET", path, params={"batch": 1000}))
    with contextlib.ExitStack() as stack:
        stack.callback(over.set)
        await until(begun.is_set, "the page is rendered")
        async with await rig.other_account() as other:
            assert (await other.get("/v1/vms")).json() == {"vms": []}
        assert not reading.done()
    assert [line["message"] for line in (await reading)["lines"]] == messages


async def test_pages_of_one_account_wait_before_they_are_read(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many it asks for at once, few are in memory: none waits, once it was read, for the
    account's others."""
    path = await logged(rig, *(f"{number}" for number in range(60)))
    really_page, rendered = file.page, logs.rendered
    read = most = 0

    def page(connection: sqlite3.Connection, query: LineQuery) -> Page:
        nonlocal read, most
        read += 1
        most = max(most, read)
        return really_page(connection, query)

    def render(lines: Iterable[logs.LogLine], around: logs.LogPage) -> bytes:
        nonlocal read
        read -= 1
        return rendered(lines, around)

    monkeypatch.setattr(file, "page", page)
    monkeypatch.setattr(logs, "rendered", render)
    asked = (rig.ok("GET", path, params={"batch": 50}) for _ in range(50))
    answers = await asyncio.gather(*asked)
    assert all("pagination" in answer for answer in answers)
    assert most <= READERS


async def test_a_search_goes_on_where_it_stopped(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page may have no line and yet a token; whoever goes by that finds all of them, and who
    follows gets them without asking."""
    path = await logged(rig, *(f"{'needle' if n in (5, 190) else 'hay'} {n}" for n in range(200)))
    monkeypatch.setattr(file, "page", partial(file.page, bounds=Bounds(text_bytes=1)))
    for order, wanted in (("oldest_first", [5, 190]), ("newest_first", [190, 5])):
        found = await pages(rig, path, query="needle", order=order)
        messages = [message for page in found for message in page]
        assert messages == [f"needle {n}" for n in wanted]
        assert [] in found
    following = asyncio.create_task(followed(rig, path, 2, query="needle"))
    assert [event.message for event in await following] == ["needle 5", "needle 190"]


async def test_an_account_follows_so_many_logs(folder: Path, node: FakeNode) -> None:
    """One more is refused, one of another account is not; who leaves makes room."""
    settings = settings_for(folder, None, max_followed_logs_per_account=2)
    async with running(settings, node) as rig, await rig.other_account() as other:
        path, theirs = await logged(rig, "one"), await other_vms_log(rig)
        params = {"follow": "true"}
        async with rig.client.stream("GET", path, params=params) as first:
            assert first.status_code == 200
            async with rig.client.stream("GET", path, params=params):
                await until(lambda: held(rig) == 2, "both follow")
                async with rig.client.stream("GET", path, params=params) as third:
                    assert third.status_code == 429
                    await third.aread()
                    assert as_problem(third)["code"] == "quota_exceeded"
                async with other.stream("GET", theirs, params=params) as another:
                    assert another.status_code == 200
        await until(lambda: not held(rig), "nobody follows")


def held(rig: Rig) -> int:
    """Return how many follow logs."""
    return vars(rig.server.logs)["_followed"]._held.total()


async def other_vms_log(rig: Rig) -> str:
    """Have a VM of the other account print "theirs"; return the path of its log."""
    async with await rig.other_account() as other:
        mine = rig.client
        rig.client = other
        try:
            return await logged(rig, "theirs")
        finally:
            rig.client = mine
