"""VMs without egress: real machines, by each way that a start goes; and what root in one can do."""

import asyncio
import contextlib
import socket
from collections.abc import Generator
from pathlib import Path

import pytest

from cakework.domain.orders import SnapshotOrder, VmOrder
from cakework.domain.vms import VmEgress
from cakework.node.network.dial import connect
from cakework.node.network.namespaces import GATEWAY, TAP, UPLINK, host_end_name, run_inside
from cakework.node.vms.machines import Machine
from tests.integration.node.test_snapshots import COUNTER, PORT, grown, made
from tests.integration.node.vm_site import Site, Yard, filling, machine_of, site, until

pytestmark = pytest.mark.anyio

SHUT, OPEN = {"lo", TAP}, {"lo", TAP, UPLINK}
EGRESSES: dict[VmEgress, set[str]] = {"none": SHUT, "internet": OPEN}
TRIED = "tried all"
BESIDE = 9999
ROOTS_TRIES = f"""
busybox nc -ll -p {PORT} -e /bin/cat &
exec 3>&1 >/dev/null 2>&1
try() {{ busybox nc -w 1 "$1" "$2" </dev/null && echo "reached $1" >&3; }}
all() {{
  for target in {GATEWAY} 11.77.77.2 10.201.0.1 169.254.169.254 $HOST; do
    try $target {BESIDE}; try $target 53
    busybox timeout 1 busybox nslookup example.com $target && echo "named by $target" >&3
    busybox ping -c 1 -W 1 $target && echo "answered by $target" >&3
  done
}}
all
echo 0 > /proc/sys/net/ipv6/conf/eth0/disable_ipv6
busybox ip link set eth0 down
busybox ip link set eth0 address 02:63:77:99:99:99
busybox ip address flush dev eth0
busybox ip address add 172.31.255.2/8 dev eth0
busybox ip address add 10.201.0.9/8 dev eth0
busybox ip link set eth0 up
busybox ip route add default dev eth0
busybox ip neigh add 11.77.77.2 lladdr ff:ff:ff:ff:ff:ff dev eth0
all
try 127.0.0.1 {PORT}
echo {TRIED} >&3
sleep 100000
"""


def reach(machine: Machine) -> set[str]:
    """Return the links of a machine's network; one without a way out forwards nothing, either."""

    def look() -> set[str]:
        links = {name for _, name in socket.if_nameindex()}
        forwards = Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()
        assert UPLINK in links or forwards == "0"
        return links

    return run_inside(machine.namespace.fd, look)


async def answers(s: Site, vm_id: str) -> bool:
    """Say whether a VM's port answers, reached as server and router reach it, once it listens."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(60):
        while True:
            try:
                dialed = await connect(machine_of(s, vm_id).namespace.fd, PORT)
            except ConnectionRefusedError:
                await asyncio.sleep(0.01)
                continue
            with dialed:
                await loop.sock_sendall(dialed, b"hello\n")
                return await loop.sock_recv(dialed, 100) == b"hello\n"


async def shut(s: Site, order: VmOrder, way: str) -> None:
    """Start a VM, in a certain way, that reaches nothing, and is reached."""
    report = await s.vms.start(order)
    assert way in report.phases_ms, report
    assert reach(machine_of(s, order.vm_id)) == SHUT
    name = host_end_name(s.host.territory, machine_of(s, order.vm_id).record.slot)
    assert name not in {link for _, link in socket.if_nameindex()}
    await grown(s, order.vm_id, len(s.printed(order.vm_id)) + 1)
    assert await answers(s, order.vm_id)


def fork_of(order: VmOrder, egress: VmEgress, number: int) -> VmOrder:
    own: dict[str, object] = {"vm_id": f"fork{egress}{number}", "fork_of": order.vm_id}
    return order.model_copy(update={**own, "egress": egress, "snapshot": "boot"})


@pytest.mark.parametrize("pool_snapshots", [0, 2])
async def test_each_way_of_a_start_without_egress_has_no_way_out(
    yard: Yard, tmp_path: Path, pool_snapshots: int
) -> None:
    """Booted, with a snapshot of its own, with kept memory, and forked: restored, of a zygote, and
    taken where it waited. Of one snapshot there may be forks with egress and without."""
    way = "fork" if pool_snapshots else "restore"
    async with site(yard, tmp_path, pool=1, pool_snapshots=pool_snapshots, networks=2) as s:
        async with filling(s.pool):
            waiting = s.pool.ready
            own = await s.order(COUNTER, port=PORT, egress="none", volume_gb=1, volume_kept=True)
            await s.vms.start(own)
            assert reach(machine_of(s, own.vm_id)) == SHUT
            assert s.pool.ready == waiting
            await s.vms.stop(own.vm_id, 0, keep_memory=True)
            await shut(s, own.model_copy(update={"run": 2}), "restore")
            await s.vms.stop(own.vm_id, 0)
        ready = await s.order(COUNTER, port=PORT, egress="none", snapshot="ready")
        await made(s, ready)
        for number in (1, 2):
            for egress, links in EGRESSES.items():
                order = fork_of(ready, egress, number)
                report = await s.vms.start(order)
                assert way in report.phases_ms, report
                assert reach(machine_of(s, order.vm_id)) == links
                assert await answers(s, order.vm_id)
                await s.vms.stop(order.vm_id, 0)
        await shut(s, ready, way)
        await s.vms.stop(ready.vm_id, 0)
        if pool_snapshots:
            async with filling(s.pool):
                await until(lambda: s.pool.full)
                order = fork_of(ready, "internet", 3)
                assert "pooled" in (await s.vms.start(order)).phases_ms
                assert reach(machine_of(s, order.vm_id)) == OPEN
                await shut(s, fork_of(ready, "none", 3), "pooled")
        for report in s.vms.reports():
            await s.vms.stop(report.vm_id, 0)


async def test_the_machine_that_others_are_forked_from_reaches_nothing(
    yard: Yard, tmp_path: Path
) -> None:
    """One that is restored to be forked from runs for a moment, and so does what a snapshot is made
    of; and one that was a VM without egress stays as it was."""
    async with site(yard, tmp_path, pool_snapshots=2) as s:
        made_with: list[set[str]] = []
        rest = Machine.rest

        async def resting(machine: Machine, lines: int = 0) -> object:
            made_with.append(reach(machine))
            return await rest(machine, lines)

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Machine, "rest", resting)
            order = await s.order(COUNTER, port=PORT, egress="none", snapshot="ready")
            await made(s, order)
            assert made_with == [SHUT]
            s.pool.forget(s.folder / "snapshots" / order.vm_id / "ready")
            await shut(s, fork_of(order, "none", 1), "fork")
            assert made_with == [SHUT, SHUT]
            version = fork_of(order, "none", 2).model_copy(update={"forkable": True})
            await s.vms.start(version)
            taken = SnapshotOrder(snapshot_id="one", then="end")
            await s.vms.take_snapshot(version.vm_id, taken)
            assert made_with == [SHUT] * 3
            await shut(s, fork_of(version, "none", 3), "fork")


async def test_root_in_a_vm_without_egress_gets_nowhere(yard: Yard, tmp_path: Path) -> None:
    """Whatever addresses, routes and link address it gives itself: no port of its gateway, though
    somebody listens there, none of the host's, nothing beyond; and it is dialled all the while."""
    async with site(yard, tmp_path) as s:
        order = await s.order(ROOTS_TRIES, port=PORT, egress="none", env={"HOST": _own_address()})
        await s.vms.start(order)
        with beside(machine_of(s, order.vm_id)), socket.create_server(("0.0.0.0", BESIDE)):
            await until(lambda: TRIED in s.printed(order.vm_id), 300)
        assert s.printed(order.vm_id) == ["reached 127.0.0.1", TRIED]
        assert await answers(s, order.vm_id)


@contextlib.contextmanager
def beside(machine: Machine) -> Generator[None]:
    """Listen in a VM's own network, at all addresses that its kernel has there."""

    def listen() -> socket.socket:
        return socket.create_server(("0.0.0.0", BESIDE))

    with run_inside(machine.namespace.fd, listen):
        yield


def _own_address() -> str:
    """Return an address of the host by which it reaches others."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asked:
        asked.connect(("192.0.2.1", 9))
        return asked.getsockname()[0]
