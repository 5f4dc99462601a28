"""MARK: all that was printed before it is in lines up to a number, all that comes later is not."""

import errno
import signal
from pathlib import Path

import pytest

from cakework.node.guest.codec import decode_guest, encode
from cakework.node.guest.protocol import (
    MARK,
    Ack,
    Failed,
    Freeze,
    Frozen,
    HostHello,
    Line,
    Mark,
    Marked,
    Ping,
    Pong,
    Resume,
    Resumed,
    Signal,
    Started,
)
from tests.integration.node.guest.machine import (
    Talk,
    Template,
    identity,
    restored,
    run_order,
    run_to_end,
    shell,
)
from tests.integration.node.guest.test_guest_lines import plug

pytestmark = pytest.mark.anyio


async def marked(talk: Talk, token: int) -> Marked:
    await talk.send(Mark(token))
    return await talk.until(Marked)


async def refused(talk: Talk, token: int) -> Failed:
    await talk.send(Mark(token))
    answer = await talk.next()
    assert isinstance(answer, Failed), answer
    return answer


async def test_a_mark_cuts_the_log(template: Template, tmp_path: Path) -> None:
    """What has been printed is lines by then, an unfinished one too; that goes on later."""
    script = "trap 'echo more' USR1; echo out; printf half; while :; do sleep 0.05; done"
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(shell(script))
        await talk.until(Started)
        token = 1
        while (answer := await marked(talk, token)).last < 2:
            token += 1
        assert answer == Marked(token, 2)
        assert [(line.text, line.goes_on) for line in talk.lines] == [
            (b"out", False),
            (b"half", True),
        ]
        assert await marked(talk, 99) == Marked(99, 2)
        await talk.send(Signal(signal.SIGUSR1))
        last = await talk.until(Line)
        assert (last.number, last.text, last.goes_on) == (3, b"more", False)


async def full(talk: Talk) -> None:
    """Have a program print without end, until the guest has no more room: what is printed then
    waits, and with it the answer to a mark. Silence alone may be that of a program which was not
    given a processor; a mark is answered then."""
    await talk.send(run_order("yes", "x" * 1000))
    await talk.until(Started)
    while len(talk.lines) < 4000:
        await talk.next()
    for token in range(100, 200):
        await nothing_more(talk)
        said = len(talk.frames)
        await talk.send(Mark(token))
        await nothing_more(talk)
        if not any(isinstance(frame, Marked) for frame in talk.frames[said:]):
            return
    pytest.fail("the guest answered every mark: it always has room")


async def nothing_more(talk: Talk) -> None:
    """Wait until the guest answers, and says nothing else, three times."""
    quiet = 0
    while quiet < 3:
        said = len(talk.frames)
        await talk.send(Ping(said))
        await talk.until(Pong)
        quiet = quiet + 1 if len(talk.frames) == said + 1 else 0


async def until_marked(talk: Talk) -> Marked:
    """Take in lines and make room, up to the answer."""
    while not isinstance(frame := await talk.next(), Marked):
        if isinstance(frame, Line):
            await talk.send(Ack(frame.number))
    return frame


async def test_a_mark_waits_for_room(template: Template, tmp_path: Path) -> None:
    """While a program prints without end and nothing is acknowledged it is not answered; then it
    comes right after the last line that it is about, and the next line is the next. What an earlier
    node asked for is forgotten."""
    async with restored(template, tmp_path) as machine:
        async with machine.talk() as talk:
            await full(talk)
            await talk.send(Mark(1))
            await nothing_more(talk)
            last = talk.lines[-1].number
        async with machine.talk(acked=last) as talk:
            await talk.send(Mark(2))
            answer = await until_marked(talk)
            assert talk.lines, (answer, last)
            assert answer == Marked(2, talk.lines[-1].number)
            assert last < answer.last < last + 1000
            assert [f for f in talk.frames if isinstance(f, Marked)] == [answer]
            assert (await talk.until(Line)).number == answer.last + 1


async def test_the_next_order_takes_the_place_of_a_mark(template: Template, tmp_path: Path) -> None:
    """Another one, or FREEZE; the one before is not answered. A frozen program is not marked."""
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await full(talk)
        await talk.send_at_once(Mark(1), Mark(2))
        await talk.send(Ack(talk.lines[-1].number))
        assert (await until_marked(talk)).token == 2
        await talk.send_at_once(Mark(3), Freeze())
        while not isinstance(frame := await talk.next(), Frozen):
            assert isinstance(frame, Line)
            await talk.send(Ack(frame.number))
        assert (await refused(talk, 4)).error == errno.EBUSY
        await talk.send(Resume(identity()))
        await talk.until(Resumed)
        await talk.send(Mark(5))
        assert (await until_marked(talk)).token == 5


async def test_what_cannot_be_marked_is_refused(template: Template, tmp_path: Path) -> None:
    """Before the program runs and after it has ended; and a frame that a guest does not know is
    answered in a way of its own, and is all that comes of it."""
    async with restored(template, tmp_path) as machine:
        with plug(machine) as sock:
            sock.sendall(MARK + encode(HostHello(1, 0)) + b"\x63" + MARK)
            told = b""
            while told.count(MARK) < 3:
                told += sock.recv(1 << 16)
            answer = decode_guest([piece for piece in told.split(MARK) if piece][1])
            assert isinstance(answer, Failed)
            assert answer.error == errno.EBADMSG
        async with machine.talk() as talk:
            assert (await refused(talk, 1)).error == errno.EBUSY
            await run_to_end(talk, shell("echo one"))
            assert (await refused(talk, 2)).error == errno.EBUSY
