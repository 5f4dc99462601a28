import asyncio

import pytest

from cakework.server.services.claims import Claims


@pytest.mark.parametrize("at_once", [1, 3])
def test_a_claim_is_held_by_so_many_at_a_time_and_then_gone(at_once: int) -> None:
    """However many want the same thing, so many are at work; when all are done nothing is kept."""
    claims: Claims[str] = Claims(at_once)
    at_work: list[int] = []
    most = 0

    async def work(number: int) -> None:
        nonlocal most
        async with claims.hold("a"):
            at_work.append(number)
            most = max(most, len(at_work))
            await asyncio.sleep(0)
            at_work.remove(number)

    async def all_of_them() -> None:
        async with claims.hold("b"):
            tasks = [asyncio.create_task(work(number)) for number in range(20)]
            await asyncio.sleep(0)
            tasks[5].cancel()
            await asyncio.wait(tasks)
            assert claims.held("b")
            assert not claims.held("a")
        assert not claims.held("b")

    asyncio.run(all_of_them())
    assert most == at_once
