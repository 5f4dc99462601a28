"""What of the host's shared numbers is this node's: user ids, addresses, interface names.

Several nodes may run on one host, each with a data folder of its own. Each leases one
*territory*, a number from 0 to 63, by a lock that the kernel drops when the node dies, and
remembers it, so that it has the same numbers when it comes back to VMs that still run. When
all are remembered, one is taken of which nothing runs: a data folder that its owner left behind
and never removed keeps no other node from starting.
"""

import fcntl
import ipaddress
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cakework.domain.errors import Unavailable
from cakework.node.listing import entries, if_there, text_of

LOCKS = Path("/run/cakework/territories")
TERRITORIES = 64
SLOTS = 1024
FIRST_UID = 1_500_000
FIRST_ADDRESS = ipaddress.IPv4Address("10.201.0.0")
"""Territory t has the /21 at 10.201.0.0 + t x 2048: a /31 for each of its 1,024 slots."""

PATIENCE_S = 2.0
"""How long another may hold a node's lock without being that node: one that looks for a territory
locks each for a moment, and what a killed node was just starting has its files until it runs."""
LOOK_EVERY_S = 0.02


@dataclass(frozen=True, slots=True)
class Territory:
    """The leased number and what follows from it. Dropped when the process ends."""

    number: int

    @property
    def subnet(self) -> ipaddress.IPv4Network:
        """All addresses of this node's network slots."""
        return ipaddress.IPv4Network((int(FIRST_ADDRESS) + self.number * SLOTS * 2, 21))

    @property
    def interface_prefix(self) -> str:
        """What the names of this node's interfaces on the host begin with."""
        return f"cw{self.number}x"

    @property
    def name(self) -> str:
        """What the names of this node's cgroups and tables begin with."""
        return f"cakework{self.number}"

    def uid(self, slot: int) -> int:
        """Return the user id of the QEMU in ``slot``."""
        return FIRST_UID + self.number * SLOTS + slot

    def addresses(self, slot: int) -> tuple[str, str]:
        """Return the pair of ``slot``: the host's end, and the slot's."""
        host = self.subnet.network_address + 2 * slot
        return str(host), str(host + 1)

    @property
    def is_deserted(self) -> bool:
        """Whether neither a process nor an interface on this host has a number of it.

        That holds for what a node leaves running when it dies too: a VM is a process with a
        user id of the territory, and a build with a network has an interface.
        """
        if any(name.startswith(self.interface_prefix) for _, name in socket.if_nameindex()):
            return False
        return not any(self.uid(0) <= uid <= self.uid(SLOTS - 1) for uid in _uids())


def lease_territory(node_dir: Path, locks: Path = LOCKS) -> Territory:
    """Lease the territory this data folder had before, or else a free one.

    Raises:
        Unavailable: another node runs on ``node_dir``, or all territories are taken.
    """
    locks.mkdir(parents=True, exist_ok=True)
    file = node_dir / "territory"
    if file.exists():
        number = int(file.read_text())
        lock = locks / str(number)
        until = time.monotonic() + PATIENCE_S
        while not (ours := _lock(lock, node_dir)) and _owner(lock) == node_dir.resolve():
            if time.monotonic() > until:
                raise Unavailable(f"another node already runs on {node_dir}")
            time.sleep(LOOK_EVERY_S)
        if ours:
            return Territory(number)
        # Another can only have it since the host was restarted or all were remembered, and in
        # both cases nothing of ours runs.
        file.unlink()
    for remembered in (False, True):
        for number in range(TERRITORIES):
            if _lock(locks / str(number), node_dir, remembered=remembered):
                partial = node_dir / "territory.partial"
                partial.write_text(str(number))
                partial.rename(file)
                return Territory(number)
    raise Unavailable(
        f"{TERRITORIES} nodes run on this host already, or have left VMs running on it"
    )


def _owner(lock: Path) -> Path | None:
    """Return the data folder of the node that had the lock last."""
    owner = text_of(lock).strip()
    return Path(owner) if owner else None


def _lock(lock: Path, node_dir: Path, *, remembered: bool = False) -> bool:
    """Take a lock that no node has, unless one that is down will want it again.

    With ``remembered`` also that one's, if nothing of it runs.
    """
    fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    owner = _owner(lock)
    wanted = owner not in (None, node_dir.resolve()) and _remembers(owner, lock)
    if wanted and not (remembered and Territory(int(lock.name)).is_deserted):
        os.close(fd)
        return False
    os.ftruncate(fd, 0)
    os.pwrite(fd, str(node_dir.resolve()).encode(), 0)
    return True


def _remembers(owner: Path, lock: Path) -> bool:
    return text_of(owner / "territory") == lock.name


def _uids() -> Iterator[int]:
    """Yield the user id of each process on this host."""
    for process in entries(Path("/proc")):
        with if_there():
            if process.name.isdecimal():
                yield process.stat().st_uid
