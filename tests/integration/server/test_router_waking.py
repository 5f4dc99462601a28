"""VMs that a request wakes, through a real router: waited for, once for all, within bounds."""

import asyncio

import pytest

from cakework.domain.errors import CakeworkError, Conflict, NoRoom, Unavailable
from cakework.domain.vms import VmState
from cakework.router.routes import Limits

from .router_rig import DEADLINE_S, HOST, VM, Rig, eventually, get, post, router_rig, tell

pytestmark = pytest.mark.anyio


def sleeping(rig: Rig, state: VmState = VmState.STOPPED) -> None:
    """Have the VM sleep, with autoStart, until the alarm rings."""
    route = rig.routes.by_host[HOST]
    route.state, route.auto_start = state, True

    async def rings(vm_id: str) -> None:
        assert vm_id == VM
        await asyncio.sleep(0)
        route.state, route.run = VmState.STARTED, route.run + 1

    rig.alarm.rings = rings


@pytest.mark.parametrize("state", [VmState.STOPPED, VmState.CREATED])
async def test_a_request_waits_until_its_vm_is_started(state: VmState) -> None:
    """And is passed on whole, its body too; the next one finds it started."""
    async with router_rig() as rig:
        await rig.vm(tell)
        sleeping(rig, state)
        client = await rig.client()
        await client.send(post("Content-Length: 5", body=b"hello"))
        status, _, body = await client.answer()
        assert (status, b'"body": 5' in body or b"5" in body) == (200, True)
        await client.send(get())
        assert (await client.answer())[0] == 200
        assert rig.alarm.asked == 1


async def test_a_port_that_does_not_accept_yet_is_waited_for() -> None:
    """Of a VM with autoStart; when it never does within the time, that is said."""
    async with router_rig(Limits(wake_timeout_s=DEADLINE_S)) as rig:
        await rig.vm(tell)
        port = rig.node.ports[VM, 80]
        sleeping(rig)
        rig.node.ports[VM, 80] = 1
        client = await rig.client()
        await client.send(get())
        await eventually(lambda: rig.node.dials > 1)
        rig.node.ports[VM, 80] = port
        assert (await client.answer())[0] == 200
    async with router_rig(Limits(wake_timeout_s=0.5)) as rig:
        await rig.vm(tell)
        sleeping(rig, VmState.STARTED)
        rig.node.ports[VM, 80] = 1
        client = await rig.client()
        await client.send(get())
        assert await client.problem() == (502, "vm_not_listening")
        assert rig.node.dials > 1


async def test_a_start_that_takes_too_long_is_not_waited_for() -> None:
    """The request is told so, and the alarm is left to ring."""
    async with router_rig(Limits(wake_timeout_s=0.1)) as rig:
        await rig.vm(tell)
        sleeping(rig)

        async def never(_: str) -> None:
            await asyncio.Event().wait()

        rig.alarm.rings = never
        client = await rig.client()
        await client.send(get())
        assert await client.problem() == (504, "vm_timeout")


@pytest.mark.parametrize(
    ("error", "status", "code", "retry"),
    [
        (NoRoom("full", retry_after_s=7), 503, "no_room", "7"),
        (Unavailable("too often", retry_after_s=4), 503, "unavailable", "4"),
        (Conflict("Its program ended at once."), 502, "vm_not_started", None),
    ],
)
async def test_why_a_vm_cannot_be_woken_is_said(
    error: CakeworkError, status: int, code: str, retry: str | None
) -> None:
    """With when to try again, where that helps."""
    async with router_rig() as rig:
        await rig.vm(tell)
        sleeping(rig)

        async def fails(_: str) -> None:
            raise error

        rig.alarm.rings = fails
        client = await rig.client()
        await client.send(get())
        found, headers, body = await client.answer()
        assert (found, headers.get("retry-after")) == (status, retry)
        assert f'"code": "{code}"'.encode() in body


async def test_nobody_enters_a_vm_that_is_put_to_rest() -> None:
    """Who comes meanwhile waits at the gate, and wakes it when it has come to rest."""
    async with router_rig() as rig:
        await rig.vm(tell)
        sleeping(rig)
        route = rig.routes.by_host[HOST]
        route.state = VmState.STARTED
        client = await rig.client()
        rig.activity.shut(VM, "gate")
        rig.activity.shut(VM, "another")
        await client.send(get())
        rig.activity.open(VM, "another")
        other = await rig.client()
        await other.send(get(host="no.localhost"))
        assert (await other.answer())[0] == 404
        assert rig.node.dials == 0
        route.state = VmState.STOPPED
        rig.activity.open(VM, "gate")
        assert (await client.answer())[0] == 200
        assert rig.alarm.asked == 1
        assert rig.activity.count(VM) == 0


async def test_a_gate_that_stays_shut_is_not_waited_for() -> None:
    """As when the server ended while it put the VM to rest."""
    async with router_rig(Limits(wake_timeout_s=0.1)) as rig:
        await rig.vm(tell)
        rig.activity.shut(VM, "gate")
        client = await rig.client()
        await client.send(get())
        assert await client.problem() == (504, "vm_timeout")
        assert rig.node.dials == 0


async def test_a_connection_is_not_used_beyond_its_run() -> None:
    """One kept from before the VM was put to rest leads nowhere any more."""
    async with router_rig() as rig:
        await rig.vm(tell)
        client = await rig.client()
        for run in (1, 1, 2):
            rig.routes.by_host[HOST].run = run
            await client.send(get())
            assert (await client.answer())[0] == 200
        assert rig.node.dials == 2
