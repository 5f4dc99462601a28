"""Networks made ahead of demand: real namespaces, and machines that get them."""

import asyncio
import threading
from pathlib import Path

import pytest

from cakework.domain.errors import NoRoom
from cakework.node.network import spares
from cakework.node.network.namespaces import Namespace, make_bare_namespace
from cakework.node.network.slots import Slots
from cakework.node.network.spares import Spares
from cakework.node.quiet import Quiet
from cakework.node.territory import SLOTS
from cakework.node.vms.machines import Machine
from tests.integration.node.vm_site import Yard, kept_full, site, until

pytestmark = pytest.mark.anyio


def is_open(namespace: Namespace) -> bool:
    return namespace.fd >= 0 and Path(f"/proc/self/fd/{namespace.fd}").exists()


async def test_machines_get_what_was_made_ahead(yard: Yard, tmp_path: Path) -> None:
    """A start takes the longest waiting, with its slot and its addresses; another takes its place.
    Nothing is left of either at the end."""
    async with site(yard, tmp_path, networks=2) as s:
        assert s.host.spares.ready == 0
        async with kept_full(s.host.spares):
            await until(lambda: s.host.spares.ready == 2)
            machine = await Machine.restore(s.host, await s.template())
            links = [name for name in s.leftovers() if name.startswith("cw")]
            assert f"{s.host.territory.interface_prefix}{machine.record.slot}" in links
            assert machine.record.slot == 0
            await until(lambda: s.host.spares.ready == 2)
        await machine.release()
        s.host.spares.close()
        await s.clean()


async def test_a_vm_of_a_spare_network_has_its_address_and_its_route(
    yard: Yard, tmp_path: Path
) -> None:
    """A program in it finds what it finds in a network that was made for it."""
    async with site(yard, tmp_path, networks=1) as s:
        async with kept_full(s.host.spares):
            await until(lambda: s.host.spares.ready == 1)
        order = await s.order("ip -4 -o addr show dev eth0; ip route")
        made = s.host.spares.ready
        await s.vms.start(order)
        assert s.host.spares.ready == made - 1
        await s.stopped(order.vm_id)
        lines = "\n".join(s.printed(order.vm_id))
        assert "172.31.255.2/30" in lines
        assert "default via 172.31.255.1" in lines
        await s.clean()


async def test_none_is_made_while_a_start_is_under_way() -> None:
    """They wait for quiet, and are made then."""
    slots, quiet, noise, made_in_noise = Slots(), Quiet(), True, list[bool]()

    def make(slot: int) -> Namespace:
        made_in_noise.append(noise)
        return make_bare_namespace(slot)

    ready = Spares(make, slots, quiet, 3)
    with quiet.disturbed():
        filling = asyncio.create_task(ready.fill())
        for _ in range(100):
            await asyncio.sleep(0)
        noise = False
    await until(lambda: ready.ready == 3)
    filling.cancel()
    await asyncio.gather(filling, return_exceptions=True)
    assert made_in_noise == [False] * 3
    taken = ready.take()
    assert taken is not None
    taken.close()
    slots.give_back(taken.slot)
    ready.close()
    assert slots.free == SLOTS


async def test_one_that_is_being_made_when_filling_ends_is_not_lost() -> None:
    """It is held, and let go of with the others."""
    slots, made = Slots(), list[Namespace]()
    began, go = threading.Event(), threading.Event()

    def slowly(slot: int) -> Namespace:
        began.set()
        go.wait(60)
        made.append(make_bare_namespace(slot))
        return made[-1]

    ready = Spares(slowly, slots, Quiet(), 3)
    task = asyncio.create_task(ready.fill())
    await until(began.is_set)
    task.cancel()
    await asyncio.sleep(0)
    go.set()
    await asyncio.gather(task, return_exceptions=True)
    assert [is_open(namespace) for namespace in made] == [True]
    assert ready.ready == 1
    ready.close()
    assert [is_open(namespace) for namespace in made] == [False]
    assert ready.take() is None
    assert slots.free == SLOTS


async def test_spares_give_way_to_what_needs_a_slot() -> None:
    """Where all slots are taken, builds and machines without a network get those of spares."""
    slots = Slots()
    ready = Spares(make_bare_namespace, slots, Quiet(), 2)
    async with kept_full(ready):
        await until(lambda: ready.ready == 2)
        taken = [slots.take() for _ in range(SLOTS - 2)]
        taken.append(slots.take())
        assert ready.ready == 1
        await asyncio.sleep(0.05)
        taken.append(slots.take())
        assert ready.ready == 0
    assert sorted(taken) == list(range(SLOTS))
    with pytest.raises(NoRoom):
        slots.take()


async def test_after_a_fault_they_are_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The slot of one that could not be made is free, and filling goes on."""
    monkeypatch.setattr(spares, "RETRY_S", 0.01)
    slots, faults = Slots(), [OSError("no more memory"), OSError("no more memory")]

    def make(slot: int) -> Namespace:
        if faults:
            raise faults.pop()
        return make_bare_namespace(slot)

    ready = Spares(make, slots, Quiet(), 2)
    async with kept_full(ready):
        await until(lambda: ready.ready == 2)
    ready.close()
    assert slots.free == SLOTS


async def test_a_machine_that_is_not_made_lets_go_of_its_network(
    yard: Yard, tmp_path: Path
) -> None:
    """One that fails before it is wired gives back the spare it had, and the slot."""
    async with site(yard, tmp_path, networks=1) as s:
        template = await s.template()
        async with kept_full(s.host.spares):
            await until(lambda: s.host.spares.ready == 1)
        s.host.machines_dir.rename(tmp_path / "away")
        with pytest.raises(Exception, match="could not be made"):
            await Machine.restore(s.host, template)
        (tmp_path / "away").rename(s.host.machines_dir)
        assert s.host.spares.ready == 0
        await s.clean()
        assert s.host.slots.free == SLOTS
