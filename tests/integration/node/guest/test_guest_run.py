"""Programs in a real microVM: how they are started, what they see, how they end."""

import errno
import signal
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from cakework.node.guest.protocol import Exited, Failed, Line, Ping, Pong, Signal, Started
from tests.integration.node.guest.machine import (
    Talk,
    Template,
    restored,
    run_order,
    run_to_end,
    shell,
)
from tests.integration.node.guest.materials import compile_static, make_image

pytestmark = pytest.mark.anyio

EAT = """
#include <stdlib.h>
#include <string.h>
int main(void) { for (;;) memset(malloc(1 << 20), 1, 1 << 20); }
"""


async def run(template: Template, folder: Path, script: str, **changes: object) -> Talk:
    """Run a script in a fresh machine up to its end."""
    async with restored(template, folder) as machine, machine.talk() as talk:
        await run_to_end(talk, shell(script, **changes))
        return talk


def ending(talk: Talk) -> Exited:
    assert isinstance(talk.frames[-1], Exited)
    return talk.frames[-1]


async def test_lines_come_numbered_timed_and_told_apart(template: Template, tmp_path: Path) -> None:
    """Both streams arrive, numbered in one row from 1; STARTED stands before, EXITED after."""
    before = time.time_ns()
    talk = await run(template, tmp_path, "echo one; echo two >&2; echo; printf four; exit 3")
    after = time.time_ns()
    assert isinstance(talk.frames[0], Started)
    assert [line.number for line in talk.lines] == [1, 2, 3, 4]
    assert talk.printed("stdout") == ["one", "", "four"]
    assert talk.printed("stderr") == ["two"]
    times = [line.time_ns for line in talk.lines]
    assert times == sorted(times)
    assert before <= times[0] <= times[-1] <= after
    assert ending(talk) == Exited(by_signal=False, value=3, out_of_memory=False, last=4)


async def test_the_program_sees_what_was_ordered(template: Template, tmp_path: Path) -> None:
    """User, groups, folder, environment, host name, resolvers and clock are as ordered."""
    script = """
        id; pwd; echo "$HOME $A"; hostname; date -u +%FT%T; cat /etc/hostname /etc/hosts
        cat /etc/resolv.conf; echo $$ $(cat /proc/self/oom_score_adj); readlink /proc/self/fd/0
    """
    clock = datetime(2031, 2, 3, 4, 5, 6, tzinfo=UTC)
    talk = await run(
        template,
        tmp_path,
        script,
        user="app",
        cwd="/srv/new/folder",
        env=("A=b=c", "PATH=/bin"),
        hostname="my-host",
        dns=("1.1.1.1", "9.9.9.9"),
        clock_ns=int(clock.timestamp()) * 10**9,
    )
    printed = talk.printed()
    assert printed[0] == "uid=1000(app) gid=1001(team) groups=1234(extra)"
    assert printed[1:4] == ["/srv/new/folder", "/home/app b=c", "my-host"]
    told = datetime.fromisoformat(printed[4] + "+00:00")
    assert 0 <= (told - clock).total_seconds() < 30
    assert printed[5:7] == ["my-host", "127.0.0.1\tlocalhost"]
    assert printed[8:11] == ["10.0.2.15\tmy-host", "nameserver 1.1.1.1", "nameserver 9.9.9.9"]
    pid, oom_score_adj = printed[11].split()
    assert isinstance(talk.frames[0], Started)
    assert (int(pid), int(oom_score_adj)) == (talk.frames[0].pid, 0)
    assert printed[12] == "/dev/null"


async def test_the_root_is_a_whole_linux(template: Template, tmp_path: Path) -> None:
    """/dev, /proc and /sys are as OCI's runtimes make them; the rest can be written."""
    script = """
        ls /dev; echo x > /etc/new && cat /etc/new; rm /bin/yes; test -e /bin/yes || echo gone
        (echo 1 > /proc/sys/kernel/sysrq) 2>&1; touch /sys/x 2>&1; head -c 4 /dev/urandom | wc -c
        mkfifo /tmp/f && echo ok; echo shm > /dev/shm/a && cat /dev/shm/a; id -G
    """
    talk = await run(template, tmp_path, script)
    devices = "fd full mqueue null ptmx pts random shm stderr stdin stdout tty urandom zero"
    printed = talk.printed()
    assert printed[:14] == devices.split()
    assert printed[14:16] == ["x", "gone"]
    assert all("Read-only file system" in line for line in printed[16:18])
    assert printed[18:] == ["4", "ok", "shm", "0"]


async def test_long_lines_and_any_bytes_arrive(template: Template, tmp_path: Path) -> None:
    """A line of 40,000 bytes comes in pieces; bytes that are no text come as they are."""
    script = "head -c 40000 /dev/zero | tr '\\0' x; echo; printf '\\376\\377\\000\\n'"
    talk = await run(template, tmp_path, script)
    assert [len(line.text) for line in talk.lines[:3]] == [16384, 16384, 40000 - 2 * 16384]
    assert [line.goes_on for line in talk.lines] == [True, True, False, False]
    assert talk.lines[3].text == b"\xfe\xff\0"


async def test_signals_reach_the_program(template: Template, tmp_path: Path) -> None:
    """A signal sent is a signal received; one that ends the program is told as such."""
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(shell("trap 'echo usr1' USR1; echo ready; while :; do sleep 0.05; done"))
        await talk.until(Line)
        await talk.send(Signal(signal.SIGUSR1))
        assert (await talk.until(Line)).text == b"usr1"
        await talk.send(Signal(signal.SIGTERM))
        assert await talk.until(Exited) == Exited(
            by_signal=True, value=signal.SIGTERM, out_of_memory=False, last=2
        )
        await talk.send(Signal(signal.SIGTERM))
        refusal = await talk.next()
        assert isinstance(refusal, Failed)
        assert refusal.error == errno.ESRCH


@pytest.mark.parametrize(
    ("order", "error", "what"),
    [
        (run_order("no-such-program"), errno.ENOENT, "no-such-program"),
        (run_order("/etc/passwd"), errno.EACCES, "/etc/passwd"),
        (run_order("true", user="nobody-here"), 0, "no such user"),
        (run_order("true", cwd="/etc/passwd/x"), errno.ENOTDIR, "working directory"),
        (run_order(), errno.EINVAL, "without a name"),
    ],
    ids=["missing", "no-program", "no-user", "no-folder", "no-name"],
)
async def test_what_cannot_run_fails_with_a_reason(
    template: Template, tmp_path: Path, order: object, error: int, what: str
) -> None:
    """FAILED says what was wrong, again to the next node; no second RUN is taken."""
    async with restored(template, tmp_path) as machine:
        async with machine.talk() as talk:
            await talk.send(order)  # type: ignore[arg-type]
            failed = await talk.next()
            assert isinstance(failed, Failed)
            assert failed.error == error
            assert what in failed.what
            await talk.send(run_order("true"))
            again = await talk.next()
            assert isinstance(again, Failed)
            assert again.error == errno.EBUSY
        async with machine.talk() as talk:
            assert talk.channel.hello.state == "failed"
            assert await talk.next() == failed


async def test_what_is_left_behind_ends_with_the_program(
    template: Template, tmp_path: Path
) -> None:
    """Processes in the background hold nothing up: they are killed, orphans reaped."""
    script = "sleep 1000 & setsid sleep 1000 & (sleep 1000 &) ; yes > /dev/null & echo bye"
    talk = await run(template, tmp_path, script)
    assert talk.printed() == ["bye"]
    assert not ending(talk).by_signal


async def test_out_of_memory_is_told(template: Template, tmp_path: Path) -> None:
    """A program that takes more memory than there is gets killed, and the reason is told."""
    eat = compile_static(tmp_path / "eat", EAT)
    make_image(tmp_path / "image", {"bin/eat": eat})
    async with (
        restored(template, tmp_path, image=tmp_path / "image") as machine,
        machine.talk() as talk,
    ):
        exited = await run_to_end(talk, run_order("eat"))
        assert exited.out_of_memory
        assert (exited.by_signal, exited.value) == (True, signal.SIGKILL)
        await talk.send(Ping(1))
        assert await talk.until(Pong) == Pong(1)


async def test_the_network_is_set_up(template: Template, tmp_path: Path) -> None:
    """The link is up, and the default route leads to the gateway the guest was told."""
    talk = await run(
        template, tmp_path, "cat /proc/net/route; cat /sys/class/net/eth0/operstate", user="app"
    )
    routes = [line.split() for line in talk.printed()[1:-1]]
    assert ["eth0", "00000000", "0202000A"] in [route[:3] for route in routes]
    assert talk.printed()[-1] == "up"
