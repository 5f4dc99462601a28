"""What a platform holds on its host: counted before and after, so that leftovers show."""

import contextlib
import json
import os
import subprocess
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cakework.node.territory import Territory
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

REST_LOOKS = 10
GROWS = ("journal",)
"""Names in the node's folder that may well be larger or more afterwards."""
OF_WAITING = {
    "processes": 1,
    "namespaces": 1,
    "interfaces": 1,
    "mounts": 1,
    "cgroups": 3,
    "files": 6,
    "open_files": 5,
}
"""What a machine that waits for a start holds, at most. How many do is the node's to decide: by
what is asked for, what there is room for, and what could not be made a while ago."""


@dataclass(frozen=True)
class Footprint:
    """How many of each there are."""

    processes: int
    namespaces: int
    interfaces: int
    mounts: int
    cgroups: int
    files: int
    open_files: int
    started: int
    waiting: int


def footprint(platform: Platform) -> Footprint:
    """Count what ``platform`` holds now."""
    node = platform.pid("node")
    assert node is not None
    with platform.api() as api:
        started = len(api.vms(status="started")) + len(api.vms(status="created"))
    territory = platform.territory()
    open_files = _open_files(node) - _callers(platform)
    return Footprint(
        processes=len(platform.machines()),
        namespaces=sum(1 for target in open_files if target.startswith("net:")),
        interfaces=sum(1 for name in _interfaces() if name.startswith(territory.interface_prefix)),
        mounts=Path("/proc/self/mountinfo").read_text().count(str(platform.data_dir)),
        cgroups=len(list(_cgroups(territory))),
        files=len(list(_files(platform.settings.node_dir))),
        open_files=len(open_files),
        started=started,
        waiting=sum(1 for record in _records(platform) if _vm_of(record) is None),
    )


def _open_files(pid: int) -> set[str]:
    found: set[str] = set()
    for fd in Path(f"/proc/{pid}/fd").iterdir():
        # A file may be closed while we look.
        with contextlib.suppress(FileNotFoundError):
            found.add(str(fd.readlink()))
    return found


def _callers(platform: Platform) -> set[str]:
    """Return all nodes' connections with the server, which keeps as many as it once needed."""
    words = (line.split() for line in Path("/proc/net/unix").read_text().splitlines())
    name = f"/{platform.settings.node_socket.name}"
    return {f"socket:[{word[6]}]" for word in words if word[-1].endswith(name)}


def _interfaces() -> list[str]:
    listed = subprocess.run(["ip", "-brief", "link"], check=True, capture_output=True, text=True)
    return [line.split("@")[0].split()[0] for line in listed.stdout.splitlines()]


def _cgroups(territory: Territory) -> Iterator[Path]:
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            if name == territory.name or name.startswith(
                (f"{territory.name}-", f"{territory.name}.")
            ):
                yield Path(folder, name)


def _files(folder: Path) -> Iterator[Path]:
    for below, names, files in os.walk(folder):
        names[:] = [name for name in names if name not in GROWS]
        yield from (Path(below, name) for name in files if not name.startswith(GROWS))


def file_names(platform: Platform) -> Counter[str]:
    """Count the files in the node's folder by their names."""
    return Counter(file.name for file in _files(platform.settings.node_dir))


def grown(before: Footprint, after: Footprint) -> dict[str, int]:
    """Return what there is more of than before, beyond what more machines that wait hold."""
    more_wait = max(0, after.waiting - before.waiting)
    less, more = asdict(before), asdict(after)
    found = {name: more[name] - less[name] for name in less if name != "waiting"}
    return {
        name: count for name, count in found.items() if count > OF_WAITING.get(name, 0) * more_wait
    }


def at_rest(platform: Platform) -> Footprint:
    """Return the footprint once it has not changed for a while: the pool is made ahead of time."""
    seen: list[Footprint] = []

    def same() -> bool:
        seen.append(footprint(platform))
        return len(seen) > REST_LOOKS and len(set(seen[-REST_LOOKS:])) == 1

    until(same, 200, "the platform comes to rest")
    return seen[-1]


def machine_of(platform: Platform, vm_id: str) -> int:
    """Return the process of the machine that a VM runs in."""
    records = [record for record in _records(platform) if _vm_of(record) == vm_id]
    assert len(records) == 1, f"VM {vm_id} has {len(records)} machines"
    return int(records[0]["pid"])


def slot_addresses(platform: Platform) -> list[str]:
    """Return both addresses, the host's and the machine's, of every machine there is."""
    territory = platform.territory()
    slots = [int(record["slot"]) for record in _records(platform)]
    return [address for slot in slots for address in territory.addresses(slot)]


def _records(platform: Platform) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for file in (platform.settings.node_dir / "machines").glob("*/record.json"):
        # A machine may be released while we look.
        with contextlib.suppress(FileNotFoundError):
            records.append(json.loads(file.read_text()))
    return records


def _vm_of(record: dict[str, Any]) -> str | None:
    return record["order"]["vm_id"] if record["order"] else None
