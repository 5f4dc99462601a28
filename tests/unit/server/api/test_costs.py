"""Room for what becomes of large bodies."""

import asyncio
import json

import pytest

from cakework.domain.errors import NoRoom
from cakework.domain.ids import AccountId
from cakework.server.api import costs
from cakework.server.api.costs import Costs, Reckoning

A, B, C = map(AccountId, "abc")


class Scene:
    """Bodies that wait, hold, and are over when the test says so."""

    def __init__(self, bytes_max: int) -> None:
        self.costs = Costs(bytes_max)
        self.holding: list[str] = []
        self._over: dict[str, asyncio.Event] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def ask(self, name: str, account: AccountId, size: int) -> None:
        self._over[name] = asyncio.Event()
        self._tasks[name] = asyncio.create_task(self._hold(name, account, size))
        await self.settle()

    async def end(self, name: str, *, cancelled: bool = False) -> None:
        if cancelled:
            self._tasks[name].cancel()
        self._over[name].set()
        await self.settle()

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def _hold(self, name: str, account: AccountId, size: int) -> None:
        async with self.costs.hold(account, size):
            self.holding.append(name)
            try:
                await self._over[name].wait()
            finally:
                self.holding.remove(name)


def test_no_more_is_looked_into_than_there_is_memory_for() -> None:
    """Of one account half as much; who waits gets room by account, the largest too in its turn."""

    async def scene() -> None:
        all_ = Scene(100)
        await all_.ask("a1", A, 50)
        await all_.ask("a2", A, 1)
        await all_.ask("b1", B, 40)
        assert all_.holding == ["a1", "b1"]
        await all_.ask("c1", C, 90)
        await all_.ask("b2", B, 10)
        assert all_.holding == ["a1", "b1"]
        await all_.end("a1")
        await all_.end("b1")
        assert all_.holding == ["a2", "c1"]
        await all_.end("c1")
        assert sorted(all_.holding) == ["a2", "b2"]
        await all_.ask("c2", C, 99)
        await all_.end("c2", cancelled=True)
        for name in ("a2", "b2"):
            await all_.end(name)
        await all_.ask("a3", A, 1000)
        assert all_.holding == ["a3"]
        await all_.end("a3")
        assert not vars(all_.costs)["_held"] and not vars(all_.costs)["_waiting"]

    asyncio.run(scene())


def test_who_waits_too_long_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And takes no room afterwards."""
    monkeypatch.setattr(costs, "WAIT_S", 0.05)

    async def scene() -> None:
        room = Costs(100)
        async with room.hold(A, 80):
            with pytest.raises(NoRoom):
                async with room.hold(B, 80):
                    raise AssertionError("there is no room")
        async with room.hold(B, 100):
            pass

    asyncio.run(scene())


def test_what_costs_much_is_seen_before_it_is_read() -> None:
    """One character that makes all others wide, also where it is written in ASCII; values without
    number."""
    plain = json.dumps(["x" * 1000]).encode()
    wide = json.dumps(["x" * 1000 + "\U0001f600"], ensure_ascii=False).encode()
    escaped = json.dumps(["x" * 1000 + "\U0001f600"]).encode()
    many = b"[" + b"[]," * 1000 + b"[]]"

    def cost(body: bytes, values_max: int) -> int:
        """In pieces of any size it costs as much."""
        made = set[int]()
        for size in (1, 7, len(body)):
            reckoning = Reckoning()
            for start in range(0, len(body), size):
                reckoning.add(body[start : start + size])
            made.add(reckoning.cost(values_max))
        (only,) = made
        return only

    assert cost(plain, 10) < 10 * len(plain)
    assert cost(wide, 10) >= 12 * len(wide)
    assert cost(escaped, 10) >= 12 * len(escaped)
    assert cost(many, 10_000) > 60 * len(many)
    assert cost(many, 10) < cost(many, 10_000)
