"""No line is lost or repeated, whoever listens, goes away and comes back."""

import random
import re
import socket
from pathlib import Path

import pytest

from cakework.node.guest.codec import encode
from cakework.node.guest.protocol import (
    MARK,
    Ack,
    Exited,
    GuestHello,
    HostHello,
    Line,
    Ping,
    Pong,
    Started,
)
from tests.integration.node.guest.machine import (
    DEADLINE_S,
    Machine,
    Talk,
    Template,
    restored,
    run_order,
    run_to_end,
    shell,
    written,
)
from tests.integration.node.guest.materials import make_disk

pytestmark = pytest.mark.anyio

LINES = 8000
LONG = "x" * 1000
HELD = 4 << 20
DROPPED = re.compile(r"\[cakework: (\d+) lines dropped: the log was not being collected\]")


async def record(talk: Talk, acked: int, most: int) -> tuple[list[Line], bool]:
    """Receive up to ``most`` lines, acknowledging some; tells whether the program ended."""
    lines: list[Line] = []
    while len(lines) < most:
        frame = await talk.next()
        if isinstance(frame, Exited):
            assert frame.last == acked + len(lines)
            return lines, True
        assert isinstance(frame, Line), frame
        lines.append(frame)
        if len(lines) % 100 == 0:
            await talk.send(Ack(acked + len(lines)))
    return lines, False


async def test_nodes_come_and_go_and_miss_nothing(template: Template, tmp_path: Path) -> None:
    """A program's lines, read over many connections that break off anywhere, are all there."""
    choice = random.Random(7)
    recorded: list[Line] = []
    async with restored(template, tmp_path) as machine:
        async with machine.talk() as talk:
            await talk.send(run_order("seq", "1", str(LINES)))
            await talk.until(Started)
        ended, connections = False, 0
        while not ended:
            async with machine.talk(acked=len(recorded)) as talk:
                lines, ended = await record(talk, len(recorded), choice.randrange(1, 700))
            recorded += lines
            connections += 1
    assert [line.number for line in recorded] == list(range(1, LINES + 1))
    assert [line.text for line in recorded] == [b"%d" % n for n in range(1, LINES + 1)]
    assert connections > 10


async def test_exited_is_told_again(template: Template, tmp_path: Path) -> None:
    """A node that comes after the end gets the lines it has not recorded, and EXITED."""
    async with restored(template, tmp_path) as machine:
        async with machine.talk() as talk:
            first = await run_to_end(talk, shell("echo one; echo two; exit 4"))
        for acked in (0, 1, 2, 99):
            async with machine.talk(acked=acked) as talk:
                assert (talk.channel.hello.state, talk.channel.hello.last) == ("exited", 2)
                assert await talk.until(Exited) == first
                known = min(acked, 2)
                assert [line.number for line in talk.lines] == list(range(known + 1, 3))


def plug(machine: Machine) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(DEADLINE_S)
    sock.connect(str(machine.folder / "port"))
    return sock


async def test_half_frames_of_a_dead_node_do_no_harm(template: Template, tmp_path: Path) -> None:
    """Before HELLO the guest says nothing; half a frame left behind spoils nothing."""
    order = encode(run_order("sh", "-c", "echo never", env=("X=" + "y" * 5000,)))
    async with restored(template, tmp_path) as machine:
        for cut in (1, 60, 4000, len(order) - 1):
            with plug(machine) as sock:
                sock.sendall(MARK + encode(HostHello(1, 0)) + order[:cut])
                assert sock.recv(1 << 16).count(MARK) >= 1
        with plug(machine) as sock:
            sock.sendall(b"\x03 half" + MARK + b"junk" + MARK + encode(HostHello(2, 0)))
            told = b""
            while told.count(MARK) < 2:
                told += sock.recv(1 << 16)
            assert told.lstrip(MARK).startswith(encode(GuestHello(2, "waiting", 0, ""))[:11])
        async with machine.talk() as talk:
            await run_to_end(talk, shell("echo once"))
            assert talk.printed() == ["once"]


async def test_unread_output_makes_the_program_wait(template: Template, tmp_path: Path) -> None:
    """While a node is connected and does not acknowledge, 4 MiB are held and none is dropped."""
    count = 6000
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(shell(f"yes {LONG} | head -n {count}"))
        while len(talk.lines) < HELD // (len(LONG) + 100):
            await talk.next()
        for token in (1, 2, 3):
            await talk.send(Ping(token))
            await talk.until(Pong)
        assert len(talk.lines) * len(LONG) < HELD
        while not isinstance(talk.frames[-1], Exited):
            if talk.lines[-1].number % 500 == 0 or isinstance(talk.frames[-1], Pong):
                await talk.send(Ack(talk.lines[-1].number))
            await talk.next()
    assert [line.number for line in talk.lines] == list(range(1, count + 1))
    assert {line.text.decode() for line in talk.lines} == {LONG}


async def test_unheard_output_is_dropped_and_counted(template: Template, tmp_path: Path) -> None:
    """While no node is connected the program goes on; what is dropped beyond 4 MiB is told."""
    count, volume, done = 8000, tmp_path / "volume", "all-was-printed"
    make_disk(volume, 8 << 20)
    script = f"yes {LONG} | head -n {count}; echo end; echo {done} > /data/note; sync; sleep 1000"
    async with restored(template, tmp_path, volume=volume) as machine:
        async with machine.talk() as talk:
            await talk.send(shell(script, volume=True))
            await talk.until(Started)
        await written(volume, done.encode())
        async with machine.talk() as talk:
            while not talk.lines or "dropped" not in talk.lines[-1].text.decode():
                frame = await talk.next()
                assert isinstance(frame, Line)
                await talk.send(Ack(frame.number))
    assert [line.number for line in talk.lines] == list(range(1, len(talk.lines) + 1))
    note = DROPPED.fullmatch(talk.printed("stderr")[0])
    assert note is not None
    assert int(note[1]) > 1000
    assert len(talk.printed("stdout")) + int(note[1]) == count + 1


async def test_every_hello_is_answered(template: Template, tmp_path: Path) -> None:
    """However fast nodes come and go, and whatever the program does, each gets its answer."""
    async with restored(template, tmp_path) as machine:
        async with machine.talk() as talk:
            await talk.send(run_order("yes"))
            await talk.until(Started)
        for _ in range(100):
            async with machine.talk() as talk:
                assert talk.channel.hello.state == "running"
