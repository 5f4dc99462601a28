"""Work that is done to its end although whoever waits for it is cancelled."""

import asyncio

import pytest

from cakework.unbroken import unbroken


def test_cancellation_comes_after_the_end() -> None:
    """However often the waiting one is cancelled, the work is done first."""

    async def scene() -> None:
        go_on, done = asyncio.Event(), False

        async def work() -> None:
            nonlocal done
            await go_on.wait()
            done = True

        waiting = asyncio.create_task(unbroken(work()))
        for _ in range(3):
            await asyncio.sleep(0)
            waiting.cancel()
        await asyncio.sleep(0)
        assert not waiting.done()
        go_on.set()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert done

    asyncio.run(scene())


def test_results_and_errors_pass() -> None:
    """Undisturbed, it gives what the work gives."""

    async def give() -> int:
        return 7

    async def fail() -> None:
        raise OSError("why")

    assert asyncio.run(unbroken(give())) == 7
    with pytest.raises(OSError, match="why"):
        asyncio.run(unbroken(fail()))
