"""Images and programs that put something else where the guest expects a file: it waits for none of
it, says what is wrong, and goes on."""

import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from cakework.node.guest.protocol import (
    Failed,
    Freeze,
    Frozen,
    Line,
    Ping,
    Pong,
    PowerOff,
    Rehearse,
    Resume,
    RunHook,
    Signal,
    Started,
)
from tests.integration.node.guest.machine import (
    Talk,
    Template,
    identity,
    rehearse,
    restored,
    run_to_end,
    shell,
)
from tests.integration.node.guest.materials import make_disk, make_image

pytestmark = pytest.mark.anyio

NOT_PLAIN = "it is not a plain file"


def put(name: str, make: Callable[[Path], object], root: Path) -> None:
    """Put what ``make`` makes in the place of a file of an image."""
    (root / name).unlink(missing_ok=True)
    make(root / name)


def link(to: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(to)


async def refused(talk: Talk, order: Rehearse | RunHook | Resume, what: str) -> None:
    """The guest cannot do it, says why, and goes on."""
    await talk.send(order)
    answer = await talk.next()
    assert isinstance(answer, Failed), answer
    assert what in answer.what
    await talk.send(Ping(7))
    assert await talk.next() == Pong(7)


async def test_accounts_that_are_no_files(template: Template, tmp_path: Path) -> None:
    """A start from an image whose accounts are a pipe, or lead to what waits or has no end, fails
    with a reason at once; the machine takes the next."""
    odd: dict[str, tuple[str, Callable[[Path], object], str]] = {
        "fifo": ("etc/passwd", os.mkfifo, NOT_PLAIN),
        "group": ("etc/group", os.mkfifo, NOT_PLAIN),
        "folder": ("etc/passwd", Path.mkdir, NOT_PLAIN),
        "waits": ("etc/passwd", link("/proc/kmsg"), NOT_PLAIN),
        "endless": ("etc/passwd", link("../../../../dev/zero"), NOT_PLAIN),
        "round": ("etc/passwd", link("passwd"), "loop"),
        "large": ("etc/passwd", lambda path: path.write_bytes(b"x" * (2 << 20)), "large"),
    }
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        for name, (file, make, what) in odd.items():
            make_image(tmp_path / name, {}, partial(put, file, make))
            await machine.swap_image(tmp_path / name)
            await refused(talk, Rehearse(("true",)), what)
        make_image(tmp_path / "good", {"etc/real": "me:x:7:8::/home/me:\n"}, partial(_linked))
        await machine.swap_image(tmp_path / "good")
        await rehearse(talk, "true")
        await run_to_end(talk, shell("id -u; echo $HOME; cat /etc/hostname", user="me"))
        assert talk.printed() == ["7", "/home/me", "vm"]


def _linked(root: Path) -> None:
    """Links that lead to files of the image are as good as files; what the guest writes itself
    may be anything in the image."""
    put("etc/passwd", link("/etc/real"), root)
    put("etc/hostname", os.mkfifo, root)
    put("etc/hosts", Path.mkdir, root)
    put("etc/resolv.conf", link("/proc/kmsg"), root)
    put("run", link("/proc"), root)


async def test_a_volume_where_the_image_has_a_link(template: Template, tmp_path: Path) -> None:
    """It leads to somewhere in the image, and not to where the guest keeps its own."""

    def change(root: Path) -> None:
        (root / "srv/kept").mkdir(parents=True)
        put("data", link("/srv/kept"), root)

    make_image(tmp_path / "image", {}, change)
    volume = tmp_path / "volume"
    make_disk(volume, 24 << 20)
    script = "stat -f -c %T /srv/kept /data; ls /data"
    async with (
        restored(template, tmp_path, tmp_path / "image", volume) as machine,
        machine.talk() as talk,
    ):
        await run_to_end(talk, shell(script, volume=True))
        assert talk.printed()[:2] == ["ext2/ext3"] * 2
        assert talk.printed()[2:] == ["lost+found"]


async def test_a_program_that_puts_pipes_in_the_place_of_files(
    template: Template, tmp_path: Path
) -> None:
    """Hooks and a resume fail with a reason, and the machine can still be ended."""
    script = """
        rm /dev/null /etc/passwd /etc/hosts
        mkfifo /etc/passwd /etc/hosts /dev/null
        trap "rm /etc/passwd; echo root:x:0:0::/:/bin/sh > /etc/passwd; echo again" USR1
        echo ready
        while :; do sleep 0.05; done
    """
    hook = RunHook(60_000, ("sh", "-c", "echo hook"))
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(shell(script))
        assert isinstance(await talk.next(), Started)
        await talk.until(Line)
        await refused(talk, hook, f"/etc/passwd: {NOT_PLAIN}")
        await talk.send(Signal(signal.SIGUSR1))
        await talk.until(Line)
        await refused(talk, hook, "/dev/null")
        await talk.send(Freeze())
        await talk.until(Frozen)
        for _ in range(2):
            await refused(talk, Resume(identity()), f"/etc/hosts: {NOT_PLAIN}")
        await talk.send(PowerOff(0))
        await talk.ended()
        assert await machine.gone() == 0
