"""Machines restored from one snapshot: rehearsed, given other disks, each its own."""

import asyncio
import errno
import subprocess
import time
from pathlib import Path

import pytest

from cakework.node.guest.protocol import Ack, Exited, Failed, PowerOff, Rehearse, Rehearsed
from tests.integration.node.guest.machine import (
    Talk,
    Template,
    rehearse,
    restored,
    run_order,
    run_to_end,
    shell,
)
from tests.integration.node.guest.materials import make_disk, make_image

pytestmark = pytest.mark.anyio

LOOK = "cat /which; find / -xdev -type f | grep -v -e ^/bin -e ^/etc | sort; cat /proc/partitions"


async def test_nothing_of_a_rehearsal_is_left(template: Template, tmp_path: Path) -> None:
    """After rehearsals on one image, RUN sees another, larger one, and only that."""
    first, second = tmp_path / "rehearsal", tmp_path / "user"
    make_image(first, {"which": "the rehearsal's", "only-here": "x" * 100_000})
    make_image(second, {"which": "the user's\n", "big": b"\x07" * 3_000_000})
    async with restored(template, tmp_path, image=first) as machine, machine.talk() as talk:
        assert talk.channel.hello.state == "waiting"
        for _ in range(3):
            await rehearse(talk, "sh", "-c", "cat /which /only-here; echo x > /left; mkdir /l")
        await machine.swap_image(second)
        await run_to_end(talk, shell(f"{LOOK}; tr -d '\\007' < /big | wc -c"))
    printed = talk.printed()
    own = "/run/cakework/identity"
    assert printed[:4] == ["the user's", "/big", own, "/which"]
    disks = [line.split() for line in printed[4:-1]]
    sizes = [int(words[2]) for words in disks if words and words[-1].startswith("vd")]
    assert second.stat().st_size // 1024 in sizes
    assert first.stat().st_size // 1024 not in sizes
    assert printed[-1] == "0"
    assert [line.number for line in talk.lines] == list(range(1, len(talk.lines) + 1))


async def test_a_rehearsal_that_fails_is_undone(template: Template, tmp_path: Path) -> None:
    """A program that is not there fails the rehearsal and nothing else."""
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(Rehearse(("no-such-program",)))
        failed = await talk.next()
        assert isinstance(failed, Failed)
        assert failed.error == errno.ENOENT
        await rehearse(talk, "true")
        await run_to_end(talk, shell("echo fine"))
        assert talk.printed() == ["fine"]


async def test_a_rehearsal_takes_no_orders(template: Template, tmp_path: Path) -> None:
    """RUN and REHEARSE are refused while a rehearsal lasts, which goes on."""
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        # All in one piece, so that they come while it lasts.
        orders = (Rehearse(("sleep", "1")), run_order("true"), Rehearse(("true",)))
        await talk.send_at_once(*orders)
        answers = [await talk.next() for _ in range(3)]
        errors = [answer.error for answer in answers[:2] if isinstance(answer, Failed)]
        assert errors == [errno.EBUSY, errno.EBUSY]
        assert answers[2] == Rehearsed()


async def test_twins_are_told_apart(template: Template, tmp_path: Path) -> None:
    """Two machines from one snapshot have other random numbers and ids, and the right time."""
    script = (
        "od -An -tx1 -N16 /dev/urandom; cat /proc/sys/kernel/random/uuid "
        "/proc/sys/kernel/random/boot_id; hostname; date +%s"
    )

    async def twin(name: str) -> list[str]:
        folder = tmp_path / name
        folder.mkdir()
        async with restored(template, folder) as machine, machine.talk() as talk:
            await run_to_end(talk, shell(script, hostname=name))
            return talk.printed()

    began_s = int(time.time())
    one, other = await asyncio.gather(twin("one"), twin("other"))
    assert all(a != b for a, b in zip(one[:4], other[:4], strict=True))
    assert (one[3], other[3]) == ("one", "other")
    assert began_s - 1 <= int(one[4]) <= time.time() + 1


async def write_volume(talk: Talk, script: str) -> None:
    exited = await run_to_end(talk, shell(script, volume=True))
    await talk.send(Ack(exited.last))
    await talk.send(PowerOff(0))


async def test_a_volume_outlives_the_machine(template: Template, tmp_path: Path) -> None:
    """What is written below /data is on the disk when the machine is off, and there next time."""
    volume = tmp_path / "volume"
    make_disk(volume, 24 << 20)
    script = "cat /data/note; echo kept >> /data/note; mkdir -p /data/a/b; df=$(ls -a /data)"
    for times in range(3):
        async with (
            restored(template, tmp_path, volume=volume) as machine,
            machine.talk() as talk,
        ):
            await write_volume(talk, script)
            await talk.ended()
            assert await machine.gone() == 0
            assert talk.printed() == ["kept"] * times
        await asyncio.to_thread(subprocess.run, ["e2fsck", "-fn", volume], check=True)


async def test_a_volume_that_is_none_fails_the_run(template: Template, tmp_path: Path) -> None:
    """RUN with a volume fails, with a reason, when the disk holds no file system."""
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(shell("true", volume=True))
        failed = await talk.next()
        assert isinstance(failed, Failed)
        assert "volume" in failed.what
        assert not any(isinstance(frame, Exited) for frame in talk.frames)
