"""What an idle VM takes of the host's memory, QEMU included."""

from dataclasses import dataclass
from pathlib import Path

from tests.acceptance.footprint import machine_of

from benchmarks.http import first_answer
from benchmarks.series import Summary, summarise
from benchmarks.services import FORKS, cached
from benchmarks.site import SERVICE, SERVICE_PORT, Site


@dataclass(frozen=True)
class Memory:
    """Memory of idle VMs, each of 256 MB: their own, and what they share, in MB."""

    kind: str
    private_mb: Summary
    shared_mb: Summary


def idle_memory(site: Site) -> list[Memory]:
    """Measure VMs that were started and forked ones, each after one answer."""
    image = site.images[SERVICE]
    with site.api.running(image, port=SERVICE_PORT) as vm:
        started = _weigh(site, "started", [vm["id"]], [vm["hostname"]])
    with cached(site) as parent:
        forks = site.api.post(f"/v1/vm/cached/{parent['id']}/fork", {"count": FORKS})["vms"]
        ids, names = [vm["id"] for vm in forks], [vm["hostname"] for vm in forks]
        forked = _weigh(site, f"forked, {FORKS} of them", ids, names)
        for vm_id in ids:
            site.api.stop(vm_id)
    return [started, forked]


def _weigh(site: Site, kind: str, ids: list[str], hostnames: list[str]) -> Memory:
    for hostname in hostnames:
        first_answer(site.api.router_address, hostname)
    weights = [_rollup(machine_of(site.platform, vm_id)) for vm_id in ids]
    private = [each["Private_Clean"] + each["Private_Dirty"] for each in weights]
    shared = [each["Shared_Clean"] + each["Shared_Dirty"] for each in weights]
    return Memory(kind, summarise(private), summarise(shared))


def _rollup(pid: int) -> dict[str, float]:
    """Return what ``/proc/<pid>/smaps_rollup`` says, in MB."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
