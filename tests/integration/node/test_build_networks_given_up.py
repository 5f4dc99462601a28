"""Networks of builds and fetches that are given up while they are made, or taken back."""

import asyncio
import socket
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import pytest

from cakework.node.network.builds import BuildNetworks, Reach
from cakework.node.network.namespaces import enable_forwarding, set_host_rules
from cakework.node.network.rules import Egress, no_rules, outer_rules
from cakework.node.network.slots import Slots
from cakework.node.territory import Territory, lease_territory
from tests.acceptance.waiting import until
from tests.integration.open_files import count_open_files

HELD_S = 60


@pytest.fixture(scope="module")
def territory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Territory]:
    leased = lease_territory(tmp_path_factory.mktemp("node"))
    enable_forwarding()
    yield leased
    set_host_rules(no_rules(leased))


@pytest.mark.parametrize(
    "work",
    [
        "builds.make_build_namespace",
        "names.run_inside",
        "builds.set_host_rules",
        "relays.run_inside",
        "builds.unplug",
    ],
)
def test_a_lease_that_is_cancelled_leaves_nothing(
    territory: Territory, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """Whatever a thread is making for it, or taking back, is taken back before it ends."""
    open_before, links_before = count_open_files(), _links(territory)
    begun, go_on = _hold_up(monkeypatch, f"cakework.node.network.{work}")
    with socket.create_server(("127.0.0.1", 0)) as relayed:
        reach = Reach((), (relayed.getsockname(),))
        set_host_rules(outer_rules(Egress(), territory, reach.ranges))
        networks = BuildNetworks(territory, Slots(), Egress(), reach)
        asyncio.run(_lease_and_cancel(networks, begun, go_on))
        networks.close()
    _assert_nothing_is_left(territory, links_before)
    assert count_open_files() == open_before


async def _lease_and_cancel(
    networks: BuildNetworks, begun: threading.Event, go_on: threading.Event
) -> None:
    async def lease() -> None:
        async with networks.lease_fetching("an account"):
            return

    leasing = asyncio.create_task(lease())
    assert await asyncio.to_thread(begun.wait, HELD_S)
    leasing.cancel()
    for _ in range(3):
        await asyncio.sleep(0)
    assert not leasing.done()
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await leasing


def _hold_up(monkeypatch: pytest.MonkeyPatch, name: str) -> tuple[threading.Event, threading.Event]:
    """Have the function ``name`` do its work, set the first event, and wait for the second."""
    begun, go_on = threading.Event(), threading.Event()
    original = resolve_name(name)

    def slow(*args: Any) -> Any:
        result = original(*args)
        begun.set()
        assert go_on.wait(HELD_S)
        return result

    monkeypatch.setattr(name, slow)
    return begun, go_on


def _links(territory: Territory) -> set[str]:
    return {path.name for path in Path("/sys/class/net").glob(f"{territory.interface_prefix}*")}


def _assert_nothing_is_left(territory: Territory, links_before: set[str]) -> None:
    """Beyond what a node left that had this territory once, and was killed."""
    # The kernel takes a namespace's devices a moment after its last descriptor.
    until(lambda: _links(territory) <= links_before, HELD_S, "the links of the lease are gone")
    listed = subprocess.run(
        ["nft", "list", "set", "ip", territory.name, "fetching"], capture_output=True, check=True
    )
    assert b"elements" not in listed.stdout


def test_a_network_that_cannot_be_shut_off_is_nobodys(
    territory: Territory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched is fetched; but no build gets the slot from where more is reached."""
    set_rules = set_host_rules

    def refused(script: str) -> None:
        if script.startswith(refused_verb):
            raise OSError("not now")
        set_rules(script)

    async def fetch(networks: BuildNetworks) -> str:
        async with networks.lease_fetching("an account"):
            return "fetched"

    reach, slots = Reach(("192.0.2.0/24",)), Slots()
    set_host_rules(outer_rules(Egress(), territory, reach.ranges))
    networks, free = BuildNetworks(territory, slots, Egress(), reach), slots.free
    assert asyncio.run(fetch(networks)) == "fetched"
    assert slots.free == free
    monkeypatch.setattr("cakework.node.network.builds.set_host_rules", refused)
    refused_verb = "add"
    with pytest.raises(OSError, match="not now"):
        asyncio.run(fetch(networks))
    assert slots.free == free
    refused_verb = "delete"
    assert asyncio.run(fetch(networks)) == "fetched"
    assert slots.free == free - 1
    monkeypatch.undo()
    networks.close()
