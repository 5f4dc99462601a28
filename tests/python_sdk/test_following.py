"""Following logs over connections that break, and stopping half-way."""

import asyncio
import gc
import time
from contextlib import closing

import pytest

from cakework_client import (
    AsyncCakeworkClient,
    CakeworkClient,
    ConnectionFailed,
    NotFound,
    TimedOut,
)
from tests.python_sdk.server import END, VM, Script, Stream, good, hang_up, line, problem

VM_ID: str = VM["id"]
BUILD_ID = "3b241101-e2bb-4255-8caf-4136c566a962"


def test_nothing_is_lost_or_repeated(server: Script, client: CakeworkClient) -> None:
    """Connections end whole, in the middle of an event, without an answer, with 503; each next
    one asks for what is behind the last line."""
    server.steps = [
        hang_up,
        Stream(1, 3),
        Stream(3, 5, b'id: 5\ndata: {"cut off'),
        problem(503, "unavailable", Retry_After="0"),
        hang_up,
        Stream(4, 8, END),
    ]
    lines = client.follow_logs(VM_ID, query="line")
    assert [each.to_dict() for each in lines] == [line(number) for number in range(1, 8)]
    ids = [asked.headers.get("last-event-id") for asked in server.asked]
    assert ids == [None, None, "2", "4", "4", "4"]
    assert all(asked.query == {"query": ["line"], "follow": ["true"]} for asked in server.asked)


def test_it_can_begin_behind_a_line(server: Script, client: CakeworkClient) -> None:
    """Of a build, too, known by the form of its id."""
    server.steps = [Stream(5, 6, END)]
    assert [each.id for each in client.follow_logs(BUILD_ID, after=4)] == [5]
    assert server.asked[0].path == f"/v1/image/build/{BUILD_ID}/logs"
    assert server.asked[0].headers["last-event-id"] == "4"


def test_stopping_half_way_closes_the_connection(server: Script, client: CakeworkClient) -> None:
    """The server sees it go, and the client is of use for other calls."""
    server.steps = [Stream(1, 3, wait=True), good()]
    with closing(client.follow_logs(VM_ID)) as lines:
        assert next(lines).id == 1
    assert server.gone.wait(60)
    assert client.get_vm(VM_ID).id == VM_ID


def test_a_loop_that_is_left_closes_the_connection(server: Script) -> None:
    """Without asyncio at once."""
    server.steps = [Stream(1, 3, wait=True)]
    with CakeworkClient(url=server.url, api_key="cw_x") as client:
        for each in client.follow_logs(VM_ID):
            assert each.id == 1
            break
        assert server.gone.wait(60)


def test_an_async_loop_that_is_left_closes_the_connection(server: Script) -> None:
    """With asyncio as soon as the loop turns again."""

    async def leave() -> None:
        async with AsyncCakeworkClient(url=server.url, api_key="cw_x") as client:
            async for each in client.follow_logs(VM_ID):
                assert each.id == 1
                break
            gc.collect()
            assert await asyncio.to_thread(server.gone.wait, 60)

    server.steps = [Stream(1, 3, wait=True)]
    asyncio.run(leave())


def test_a_cancelled_task_closes_the_connection(server: Script) -> None:
    """A task that follows is cancelled like any other."""

    async def cancel() -> None:
        async with AsyncCakeworkClient(url=server.url, api_key="cw_x") as client:

            async def follow() -> None:
                async for _ in client.follow_logs(VM_ID):
                    pass

            task = asyncio.create_task(follow())
            assert await asyncio.to_thread(stream.sent.wait, 60)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert await asyncio.to_thread(server.gone.wait, 60)

    server.steps = [stream := Stream(1, 2, wait=True)]
    asyncio.run(cancel())


def test_a_refusal_is_raised_at_once(server: Script, client: CakeworkClient) -> None:
    """There is no following what is not there."""
    server.steps = [problem(404, "not_found")]
    with pytest.raises(NotFound):
        list(client.follow_logs(VM_ID))
    assert len(server.asked) == 1


def test_a_server_that_stays_away_is_given_up(
    server: Script, client: CakeworkClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After some tries without a word; a word sets the count back."""
    monkeypatch.setattr("cakework_client.following.FAILURES_MAX", 2)
    server.steps = [Stream(1, 2), hang_up, Stream(2, 3), hang_up, hang_up]
    lines = client.follow_logs(VM_ID)
    assert [next(lines).id, next(lines).id] == [1, 2]
    with pytest.raises(ConnectionFailed):
        next(lines)
    assert server.steps == []


def test_following_ends_with_its_timeout(server: Script, client: CakeworkClient) -> None:
    """Also when the server goes on to say that nothing has come."""
    server.steps = [Stream(1, 2, wait=True)]
    began = time.monotonic()
    with pytest.raises(TimedOut):
        list(client.follow_logs(VM_ID, timeout=0.5))
    assert time.monotonic() - began >= 0.5


def test_reading_sends_all_three_tokens_back(server: Script, client: CakeworkClient) -> None:
    """Page after page to the end, each with pagination, from and to of the one before."""
    tokens = {"from": "2026-03-03T20:22:39.096Z", "to": "2026-03-03T20:23:39.096Z"}
    server.steps = [
        good({"lines": [line(1), line(2)], "pagination": "p2", **tokens}),
        good({"lines": [line(3)]}),
    ]
    assert [each.id for each in client.iter_logs(VM_ID, query="x")] == [1, 2, 3]
    first, second = (asked.query for asked in server.asked)
    assert first == {"query": ["x"], "batch": ["1000"]}
    sent_back = {name: [value] for name, value in tokens.items()}
    assert second == {**first, "pagination": ["p2"], **sent_back}


def test_a_list_is_read_page_after_page(server: Script, client: CakeworkClient) -> None:
    """Iterating asks for the next page with the same question, and only when it is wanted."""
    server.steps = [good({"vms": [VM, VM], "pagination": "p2"}), good({"vms": [VM]})]
    found = client.iter_vms(status="started")
    next(found)
    assert len(server.asked) == 1
    assert len(list(found)) == 2
    assert server.asked[1].query == {"status": ["started"], "pagination": ["p2"]}
