"""Network namespaces that no name holds: each lives as long as a descriptor or a process in it.

So nothing is left behind by a crash: when the node and the QEMU in a namespace are gone, the
kernel takes the namespace, its devices and its rules.

    host ── cw<t>x<slot> ═══ uplink │ namespace │ tap0 ── guest 172.31.255.2
            10.201.a.b      10.201.a.b+1          172.31.255.1

That of a VM without egress has no uplink: no link leads out of it, and its kernel forwards nothing.

A namespace is made by a thread of its own that moves there and ends there; work inside one
(sockets, ``nft``) is done likewise.
"""

import array
import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyroute2  # pyright: ignore[reportMissingTypeStubs]

from cakework.node.cleanup import cleanup
from cakework.node.listing import entries, if_there
from cakework.node.network.connections import forget_connections
from cakework.node.network.rules import (
    Egress,
    inner_rules,
    local_rules,
    names_rule,
    secluded_rules,
)
from cakework.node.territory import Territory

GUEST_ADDRESS = "172.31.255.2"
GATEWAY = "172.31.255.1"
GUEST_PREFIX = 30
TAP = "tap0"
UPLINK = "uplink"

TUN = "/dev/net/tun"
CLONE_NEWNET = 0x40000000
PIDFD_GETFD = 438
"""Number of the system call, the same on every architecture."""
TUNSETIFF = 0x400454CA
TUNSETVNETHDRSZ = 0x400454D8
TUNGETDEVNETNS = 0x54E3
IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x0002, 0x1000, 0x4000
VNET_HDR_SIZE = 12
"""Of virtio 1.0 (``struct virtio_net_hdr_v1``), which QEMU's virtio-net device uses."""

T = TypeVar("T")
IPRoute: Any = pyroute2.IPRoute
NetlinkError: Any = pyroute2.NetlinkError
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Namespace:
    """A network namespace held open by ``fd``; ``tap`` is the guest's link, for QEMU to inherit.

    Closed, ``fd`` is -1: never the number of something else by then.
    """

    slot: int
    fd: int
    tap: int | None = None

    @property
    def path(self) -> str:
        """A path by which another process of this host enters it while it is held."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def close(self) -> None:
        """Let go of it; it is gone when no process is in it any more."""
        if self.fd >= 0:
            fd, self.fd = self.fd, -1
            os.close(fd)
            self.close_tap()

    def close_tap(self) -> None:
        """Close the node's copy of the tap, once QEMU has its own."""
        if self.tap is not None:
            os.close(self.tap)
            self.tap = None


def make_vm_namespace(territory: Territory, slot: int, egress: Egress) -> Namespace:
    """Make the namespace of a VM: tap for the guest, NAT to the world, the inner wall.

    Blocks for about 15 ms. Raises OSError.
    """
    host_end = host_end_name(territory, slot)

    def inside() -> Namespace:
        fd = _own_namespace()
        made = Namespace(slot, fd)
        try:
            made.tap = _open_tap(TAP)
            _write("net/ipv6/conf/all/disable_ipv6", "1")
            _plug(territory, slot, host_end, fd)
            _up(TAP, GATEWAY, GUEST_PREFIX)
            _nft(inner_rules(egress, GUEST_ADDRESS, TAP, UPLINK))
            _write("net/ipv4/ip_forward", "1")
        except BaseException:
            made.close()
            raise
        return made

    return _with_host_end(territory, slot, inside)


def make_secluded_namespace(slot: int) -> Namespace:
    """Make the namespace of a VM that reaches nothing: a tap to dial the guest through, no more.

    Blocks for about 5 ms. Raises OSError.
    """

    def inside() -> Namespace:
        made = Namespace(slot, _own_namespace())
        try:
            # Before the tap is up, so that the guest never sees it otherwise.
            _write("net/ipv4/ip_forward", "0")
            _write("net/ipv6/conf/all/disable_ipv6", "1")
            made.tap = _open_tap(TAP)
            _nft(secluded_rules(GUEST_ADDRESS, GATEWAY, TAP))
            _up(TAP, GATEWAY, GUEST_PREFIX)
        except BaseException:
            made.close()
            raise
        return made

    try:
        return _in_thread(inside)
    except NetlinkError as error:
        raise OSError(f"the kernel refused a network: {error}") from error


def make_bare_namespace(slot: int) -> Namespace:
    """Make the namespace of a machine that reaches nothing and nobody: a tap, no more."""

    def inside() -> Namespace:
        made = Namespace(slot, _own_namespace())
        try:
            # A new namespace forwards what the host does.
            _write("net/ipv4/ip_forward", "0")
            made.tap = _open_tap(TAP)
        except BaseException:
            made.close()
            raise
        return made

    return _in_thread(inside)


def make_build_namespace(territory: Territory, slot: int, egress: Egress) -> Namespace:
    """Make the namespace in which a build's own processes reach the world, and nothing private."""
    host_end = host_end_name(territory, slot)

    def inside() -> Namespace:
        fd = _own_namespace()
        made = Namespace(slot, fd)
        try:
            _write("net/ipv6/conf/all/disable_ipv6", "1")
            _plug(territory, slot, host_end, fd)
            _nft(local_rules(egress, UPLINK))
        except BaseException:
            made.close()
            raise
        return made

    return _with_host_end(territory, slot, inside)


def let_ask_names(namespace_fd: int) -> None:
    """Let the guest of a VM's namespace ask a resolver at its gateway. Raises OSError."""
    run_inside(namespace_fd, lambda: _nft(names_rule(GUEST_ADDRESS, GATEWAY, TAP)))


def adopt_namespace(slot: int, pid: int) -> Namespace:
    """Hold the namespace of the tap that process ``pid`` has open: a fork is not in it itself.

    Raises OSError.
    """
    for fd in entries(Path(f"/proc/{pid}/fd")):
        # The process closes others meanwhile.
        with if_there():
            if str(fd.readlink()) == TUN:
                return Namespace(slot, _namespace_of_tap(pid, int(fd.name)))
    raise OSError(errno.ENODEV, f"process {pid} has no tap")


def unplug(territory: Territory, slot: int) -> None:
    """Remove the pair of links of ``slot`` at once, and what the host still tracks of its
    connections; none there is no error.

    The kernel does the first by itself when a namespace is gone, but takes its time; a connection
    that nobody closed it tracks for five days, and whoever has the slot next would be counted for
    it. Blocks for some milliseconds. Raises OSError.
    """
    try:
        _remove(host_end_name(territory, slot))
    except NetlinkError as error:
        raise OSError(f"the kernel refused to remove a link: {error}") from error
    forget_connections(territory.addresses(slot)[1])


def unplug_left(territory: Territory, held: Callable[[int], bool]) -> None:
    """Remove the links of all slots that are not ``held``: those that a node left which was
    killed, and whose namespaces the kernel, or a process that ends late, still has. Blocks.
    Raises OSError.
    """
    prefix = territory.interface_prefix
    for _, name in socket.if_nameindex():
        slot = name.removeprefix(prefix)
        if name.startswith(prefix) and slot.isdecimal() and not held(int(slot)):
            unplug(territory, int(slot))


def run_inside(namespace_fd: int, work: Callable[[], T]) -> T:
    """Do ``work`` in a thread that is in the namespace, and return or raise what it does."""

    def inside() -> T:
        _setns(namespace_fd)
        return work()

    return _in_thread(inside)


def set_host_rules(script: str) -> None:
    """Give the host itself an nftables script. Raises CalledProcessError with nft's words."""
    _nft(script)


def enable_forwarding() -> None:
    """Let the host pass packets between its interfaces (sysctl net.ipv4.ip_forward)."""
    if Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() != "1":
        _write("net/ipv4/ip_forward", "1")


def _namespace_of_tap(pid: int, number: int) -> int:
    pidfd = os.pidfd_open(pid)
    try:
        tap = _libc.syscall(PIDFD_GETFD, pidfd, number, 0)
    finally:
        os.close(pidfd)
    if tap < 0:
        raise OSError(ctypes.get_errno(), f"pidfd_getfd of the tap of process {pid}")
    try:
        return fcntl.ioctl(tap, TUNGETDEVNETNS)
    finally:
        os.close(tap)


def _in_thread(work: Callable[[], T]) -> T:
    result: list[T] = []
    errors: list[BaseException] = []

    def body() -> None:
        try:
            result.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=body, name="namespace")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return result[0]


def _own_namespace() -> int:
    if _libc.unshare(CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "unshare of the network namespace")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _setns(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns to a network namespace")


def _with_host_end(territory: Territory, slot: int, work: Callable[[], T]) -> T:
    """Do ``work``, which makes the links of ``slot``, in a thread; undo it if that fails."""
    name = host_end_name(territory, slot)
    try:
        if _remove(name):
            with cleanup("connections", slot=slot):
                forget_connections(territory.addresses(slot)[1])
        try:
            return _in_thread(work)
        except BaseException:
            _remove(name)
            raise
    except NetlinkError as error:
        raise OSError(f"the kernel refused a network: {error}") from error


def host_end_name(territory: Territory, slot: int) -> str:
    """Return what the host's end of a slot's link is called."""
    return f"{territory.interface_prefix}{slot}"


def _add_pair(name: str, address: str, namespace_fd: int) -> None:
    """Make a pair of links, one of them in the namespace at once: moving it there takes 20 ms."""
    with IPRoute() as route:
        peer = {"ifname": UPLINK, "net_ns_fd": namespace_fd}
        route.link("add", ifname=name, kind="veth", peer=peer)
        index = socket.if_nametoindex(name)
        route.addr("add", index=index, address=address, prefixlen=31)
        route.link("set", index=index, state="up")


def _remove(name: str) -> bool:
    """Remove the host's end of a pair, and so both; say whether it was there."""
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return False
    try:
        with IPRoute() as route:
            route.link("del", index=index)
    except NetlinkError as error:
        # The kernel may have taken it since, with the namespace of its other end.
        if error.code != errno.ENODEV:
            raise
    return True


def _plug(territory: Territory, slot: int, host_end: str, namespace_fd: int) -> None:
    """Link this thread's namespace with the host and route through that."""
    gateway, address = territory.addresses(slot)
    _in_host_namespace(lambda: _add_pair(host_end, gateway, namespace_fd))
    with IPRoute() as route:
        lo, uplink = socket.if_nametoindex("lo"), socket.if_nametoindex(UPLINK)
        route.link("set", index=lo, state="up")
        route.addr("add", index=uplink, address=address, prefixlen=31)
        route.link("set", index=uplink, state="up")
        route.route("add", dst="0.0.0.0/0", gateway=gateway, oif=uplink)


def _in_host_namespace(work: Callable[[], None]) -> None:
    fd = os.open(f"/proc/{os.getpid()}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        run_inside(fd, work)
    finally:
        os.close(fd)


def _up(link: str, address: str, prefix: int) -> None:
    with IPRoute() as route:
        index = socket.if_nametoindex(link)
        route.addr("add", index=index, address=address, prefixlen=prefix)
        route.link("set", index=index, state="up")


def _open_tap(name: str) -> int:
    fd = os.open(TUN, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR
    fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    fcntl.ioctl(fd, TUNSETVNETHDRSZ, array.array("i", [VNET_HDR_SIZE]))
    return fd


def _write(sysctl: str, value: str) -> None:
    path = Path("/proc/sys", sysctl)
    if path.exists():
        path.write_text(value)


def _nft(script: str) -> None:
    done = subprocess.run(
        ["/usr/sbin/nft", "-f", "-"], input=script, text=True, capture_output=True, check=False
    )
    if done.returncode:
        raise OSError(f"nft refused the rules: {done.stderr.strip()}")
