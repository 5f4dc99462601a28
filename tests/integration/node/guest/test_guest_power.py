"""The end of a machine: asked for, waited for, or enforced."""

import signal
import time
from pathlib import Path

import pytest

from cakework.node.guest.protocol import Ack, Exited, Failed, Line, Ping, Pong, PowerOff
from tests.integration.node.guest.machine import Template, restored, run_order, shell

pytestmark = pytest.mark.anyio


async def test_a_waiting_machine_goes_off_at_once(template: Template, tmp_path: Path) -> None:
    """POWEROFF before RUN ends QEMU."""
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(PowerOff(5000))
        await talk.ended()
        assert await machine.gone() == 0


async def test_a_failed_machine_goes_off_at_once(template: Template, tmp_path: Path) -> None:
    """POWEROFF after a RUN that failed ends QEMU."""
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(run_order("none"))
        assert isinstance(await talk.next(), Failed)
        await talk.send(PowerOff(5000))
        assert await machine.gone() == 0


async def test_a_program_may_end_by_itself(template: Template, tmp_path: Path) -> None:
    """SIGTERM comes first; what is printed then arrives; all acknowledged, the machine is off, and
    not when two seconds are over. On a busy machine that may be seen at a later try alone."""
    script = "trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.05; done"
    for _ in range(5):
        async with restored(template, tmp_path) as machine, machine.talk() as talk:
            await talk.send(shell(script))
            await talk.until(Line)
            began = time.monotonic()
            await talk.send(PowerOff(30_000))
            exited = await talk.until(Exited)
            assert (exited.by_signal, exited.value, talk.printed()[-1]) == (False, 7, "bye")
            await talk.send(Ack(exited.last))
            assert await machine.gone() == 0
            if time.monotonic() - began < 1.9:
                return
    raise AssertionError("it was never off before two seconds were over")


async def test_a_stubborn_program_is_killed(template: Template, tmp_path: Path) -> None:
    """A program that ignores SIGTERM gets SIGKILL when the grace is over, its children too."""
    script = "trap '' TERM; sleep 1000 & echo ready; while :; do sleep 0.05; done"
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(shell(script))
        await talk.until(Line)
        began = time.monotonic()
        await talk.send(PowerOff(300))
        exited = await talk.until(Exited)
        assert time.monotonic() - began >= 0.29
        assert (exited.by_signal, exited.value) == (True, signal.SIGKILL)
        await talk.send(Ack(exited.last))
        assert await machine.gone() == 0


async def test_nobody_need_listen(template: Template, tmp_path: Path) -> None:
    """With the node gone the machine goes off all the same, two seconds after the end."""
    async with restored(template, tmp_path) as machine:
        async with machine.talk() as talk:
            await talk.send(shell("echo ready; exec sleep 1000"))
            await talk.until(Line)
            await talk.send(PowerOff(100))
            await talk.send(Ping(1))
            await talk.until(Pong)
        assert await machine.gone() == 0


@pytest.mark.parametrize(
    "script",
    [
        "b() { b & b & wait; }; echo ready; b; b; while :; do :; done",
        "echo ready; while :; do yes & yes >&2; done",
        "echo ready; cat /dev/zero > /full; yes > /tmp/full; cat /dev/zero > /dev/shm/full; yes",
        "echo ready; kill -9 1; kill -9 -1; exec yes",
    ],
    ids=["forks", "prints", "fills", "kills"],
)
async def test_a_wild_program_keeps_nobody_from_ending_it(
    template: Template, tmp_path: Path, script: str
) -> None:
    """Forking, printing or filling without end, or killing all it sees, it is still ended."""
    async with restored(template, tmp_path) as machine, machine.talk() as talk:
        await talk.send(shell(script))
        await talk.until(Line)
        await talk.send(Ping(7))
        await talk.until(Pong)
        await talk.send(PowerOff(200))
        while not isinstance(frame := await talk.next(), Exited):
            if isinstance(frame, Line):
                await talk.send(Ack(frame.number))
        await talk.send(Ack(frame.last))
        assert await machine.gone() == 0
