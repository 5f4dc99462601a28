"""Lines on their way: who prints without end delays nobody's lines and no change of state."""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cakework.domain.facts import VmLine, VmStarted, VmStopped
from cakework.node import lines as module
from cakework.node.journal import Journal
from cakework.node.lines import TURN_BYTES, WINDOW_BYTES

LINE_BYTES = 1024
ATTACKERS = 8
BACKLOG = 4 * (WINDOW_BYTES + TURN_BYTES)
"""What each of them has printed, as it is written."""


def line(vm_id: str, seq: int, text: str = "") -> VmLine:
    return VmLine(at_ms=1, vm_id=vm_id, seq=seq, stream="stdout", text=text)


@pytest.fixture
def attacked(tmp_path: Path) -> Journal:
    """A journal in which several VMs of one account have a large backlog."""
    journal = Journal.open(tmp_path)
    for number in range(ATTACKERS):
        source = journal.source(f"attacker{number}", "attacker")
        lines = [
            line(f"attacker{number}", seq, "x" * LINE_BYTES)
            for seq in range(1, BACKLOG // LINE_BYTES)
        ]
        source.extend(lines)
    return journal


class Taker:
    """Takes lines as the server does, and confirms each chunk that it has."""

    def __init__(self, journal: Journal) -> None:
        self.journal = journal
        self.stream: AsyncGenerator[bytes] = journal.lines.stream(heartbeat_s=0)
        self.taken = 0
        self.had: dict[str, int] = {}

    async def take(self) -> list[str]:
        """Take a chunk; return whose lines are in it. Nothing when there is none to be had."""
        chunk = await anext(self.stream)
        facts = [json.loads(text) for text in chunk.splitlines() if text]
        self.taken += len(chunk)
        for fact in facts:
            assert fact["seq"] == self.had.get(fact["vm_id"], 0) + 1
            self.had[fact["vm_id"]] = fact["seq"]
        return [fact["vm_id"] for fact in facts]

    def confirm(self) -> None:
        self.journal.confirm_lines(self.had)

    async def takes_until(self, vm_id: str) -> int:
        """Take until a line of a VM comes, nothing confirmed late; return the bytes before it."""
        before = self.taken
        while vm_id not in await self.take():
            self.confirm()
        return self.taken - before


def test_a_first_line_waits_for_one_turn(attacked: Journal) -> None:
    """Whatever others have waiting, it comes after one turn of the account that they are of, and
    what was on its way; so does that of a further VM of theirs, after one turn of each."""

    async def scene() -> None:
        taker = Taker(attacked)
        for _ in range(3):
            await taker.take()
            taker.confirm()
        left = attacked.lines.unconfirmed
        attacked.source("quiet", "other").extend([line("quiet", 1)])
        assert await taker.takes_until("quiet") <= 2 * (TURN_BYTES + 2 * LINE_BYTES)
        attacked.source("sibling", "attacker").extend([line("sibling", 1)])
        assert await taker.takes_until("sibling") <= (ATTACKERS + 2) * (TURN_BYTES + 2 * LINE_BYTES)
        assert attacked.lines.unconfirmed > left - BACKLOG
        await taker.stream.aclose()

    asyncio.run(scene())
    attacked.close()


def test_no_more_is_under_way_than_is_confirmed(attacked: Journal) -> None:
    """A server that is slow has little on its way to it, behind which others would wait."""

    async def scene() -> None:
        taker = Taker(attacked)
        while await taker.take():
            pass
        assert WINDOW_BYTES <= taker.taken < WINDOW_BYTES + TURN_BYTES + 2 * LINE_BYTES
        attacked.source("quiet", "other").extend([line("quiet", 1)])
        assert await taker.take() == []
        taker.confirm()
        assert await taker.takes_until("quiet") <= 2 * (TURN_BYTES + 2 * LINE_BYTES)
        await taker.stream.aclose()

    asyncio.run(scene())
    attacked.close()


def test_no_change_of_state_waits_for_others_lines(attacked: Journal) -> None:
    """While none of the attackers' lines is taken, another's changes are told, and theirs, too,
    but for the ends of logs that have not been taken."""
    for change in (
        VmStarted(at_ms=1, vm_id="quiet"),
        VmStopped(at_ms=1, vm_id="quiet", reason="over"),
        VmStarted(at_ms=1, vm_id="attacker0", run=1),
        VmStopped(at_ms=1, vm_id="attacker0", reason="over"),
    ):
        attacked.append(change)

    async def told() -> list[tuple[str, str]]:
        stream = attacked.stream(0, heartbeat_s=0)
        facts = [json.loads(text) for text in (await anext(stream)).splitlines()]
        await stream.aclose()
        return [(fact["kind"], fact["vm_id"]) for fact in facts]

    assert asyncio.run(told()) == [
        ("vm.started", "quiet"),
        ("vm.stopped", "quiet"),
        ("vm.started", "attacker0"),
    ]
    attacked.close()


def test_each_source_is_held_back_by_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sources that print without end fill up, and there is room for who prints little, always."""
    monkeypatch.setattr(module, "BACKLOG_BYTES", 4_000_000)
    journal = Journal.open(tmp_path)
    sources = {f"vm{number}": journal.source(f"vm{number}", "loud") for number in range(40)}
    seqs = dict.fromkeys(sources, 0)
    while any(not source.full for source in sources.values()):
        for vm_id, source in sources.items():
            if not source.full:
                seqs[vm_id] += 1
                source.extend([line(vm_id, seqs[vm_id], "\1" * LINE_BYTES)])
    assert 2_000_000 < journal.lines.unconfirmed < 4_000_000
    quiet = journal.source("quiet", "other")
    for seq in range(1, 6):
        assert not quiet.full
        quiet.extend([line("quiet", seq, "x" * LINE_BYTES)])

    async def scene() -> None:
        waiting = {vm_id: asyncio.create_task(source.room()) for vm_id, source in sources.items()}
        await asyncio.sleep(0)
        journal.confirm_lines({"vm7": seqs["vm7"]})
        await asyncio.wait_for(waiting["vm7"], 60)
        for task in waiting.values():
            task.cancel()

    asyncio.run(scene())
    journal.close()


def print_until_full(journal: Journal, account: str, vms: int) -> tuple[int, int]:
    """Have very many VMs of an account print a line each and end, one after the other, until none
    may; return how many there were, and the bytes that they took."""
    taken = 0
    for number in range(vms):
        vm_id = f"{account}{number}"
        source = journal.source(vm_id, account)
        if source.full:
            return number, taken
        taken += source.extend([line(vm_id, 1, "x" * LINE_BYTES)])
        journal.append(VmStopped(at_ms=1, vm_id=vm_id, reason="over"))
    raise AssertionError("it was never full")


def test_an_account_is_held_back_however_many_sources_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VMs that print too little to be held back each, and end, take no more together than is left
    for others; a node that is started again knows it; what the server takes makes room."""
    monkeypatch.setattr(module, "BACKLOG_BYTES", 400_000)
    journal = Journal.open(tmp_path)
    count, taken = print_until_full(journal, "loud", 400)
    assert 200_000 <= taken < 200_000 + 2 * LINE_BYTES
    journal.close()
    journal = Journal.open(tmp_path)
    assert journal.source("another", "loud").full
    assert journal.source("loud0", "loud").full
    quiet = journal.source("quiet", "other")
    assert not quiet.full
    _, others = print_until_full(journal, "other", 400)
    assert 90_000 <= others < 120_000
    assert not journal.source("third", "nobody yet").full

    async def scene() -> None:
        room = asyncio.create_task(journal.source("another", "loud").room())
        await asyncio.sleep(0)
        journal.confirm_lines(dict.fromkeys((f"other{number}" for number in range(90)), 1))
        await asyncio.sleep(0)
        assert not room.done()
        journal.confirm_lines(dict.fromkeys((f"loud{number}" for number in range(count)), 1))
        await asyncio.wait_for(room, 60)

    asyncio.run(scene())
    assert not journal.source("another", "loud").full
    journal.close()
