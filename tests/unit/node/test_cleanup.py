"""Clean-ups do not undo what was done before them."""

import asyncio
import contextlib

import pytest
from structlog.testing import capture_logs

from cakework.node.cleanup import clean_up


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.mark.anyio
async def test_one_that_fails_is_told_and_the_others_are_done() -> None:
    """The log says what it was for; nothing is raised."""
    done: list[str] = []

    async def first() -> None:
        done.append("first")

    async def broken() -> None:
        raise OSError("no")

    with capture_logs() as logs:
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(clean_up, "folder", first)
            stack.push_async_callback(clean_up, "cgroup", broken, build_id="b")
    assert done == ["first"]
    (told,) = logs
    assert (told["event"], told["log_level"]) == ("cleanup.failed", "error")
    assert (told["what"], told["build_id"]) == ("cgroup", "b")


@pytest.mark.anyio
@pytest.mark.parametrize("fails", [False, True])
async def test_a_cancellation_comes_after_it(fails: bool) -> None:
    """It is done to its end first, and is let through whether it fails or not."""
    begun, may_end = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        await may_end.wait()
        if fails:
            raise OSError("no")

    task = asyncio.create_task(clean_up("folder", work))
    await begun.wait()
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
