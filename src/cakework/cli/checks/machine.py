"""Checks of the machine itself: system, virtualisation, memory, disk, control groups."""

import fcntl
import os
import platform
import shutil
from pathlib import Path

import httpx2

from cakework.cli.checks.check import Check, Level
from cakework.domain.orders import NodeHealth
from cakework.settings import Settings

KVM_GET_API_VERSION = 0xAE00
"""From Linux's include/uapi/linux/kvm.h; the answer has been 12 since 2007."""
GB = 1_000_000_000
SLOW = (
    "VMs run by emulation: real VMs all the same, but their code runs several times slower. "
    "Faster: bare metal, or a cloud machine with nested virtualisation."
)
IN_CONTAINERS = (
    "A flaw in the kernel may let a Dockerfile out. CAKEWORK_BUILD_ISOLATION=vm has each build "
    "run in a microVM; without KVM that is slow."
)
NO_CGROUPS = "A VM's memory is bounded by QEMU alone, and its processor time is not."


def check_system() -> Check:
    """Debian 12 or newer on x86-64 is what is tested."""
    release = platform.freedesktop_os_release()
    found = f"{release.get('PRETTY_NAME', 'unknown')}, {platform.machine()}, {os.cpu_count()} CPUs"
    if platform.machine() != "x86_64":
        return Check("system", Level.FAIL, found, "Cakework needs an x86-64 machine.")
    if release.get("ID") != "debian":
        return Check("system", Level.WARN, found, "Only Debian 12 is tested.")
    return Check("system", Level.OK, found)


def check_root() -> Check:
    """The node needs root; some checks do too."""
    if os.geteuid() == 0:
        return Check("root", Level.OK, "yes")
    return Check("root", Level.WARN, "no", "`cakework up` needs root; run this as root too.")


def check_kvm(settings: Settings) -> Check:
    """Whether the processor can run VMs itself; only booting one proves it."""
    if settings.accelerator == "tcg":
        return Check("KVM", Level.WARN, "turned off by CAKEWORK_ACCELERATOR=tcg", SLOW)
    health = node_health(settings)
    running = health.accelerator if health else None
    if running == "kvm":
        return Check("KVM", Level.OK, "works: the node's VMs run on it")
    found = kvm_fault()
    if found is None and running == "tcg":
        found = "/dev/kvm answers, but no VM boots with it: the node tried"
    if found is None:
        return Check("KVM", Level.OK, "/dev/kvm answers; the node boots a VM to see if it works")
    level = Level.FAIL if settings.accelerator == "kvm" else Level.WARN
    return Check("KVM", level, found, SLOW)


def check_builds(settings: Settings) -> Check:
    """Where strangers' Dockerfiles are carried out."""
    health = node_health(settings)
    found = health.build_isolation if health else settings.build_isolation
    if found == "auto":
        where = "in microVMs if KVM works, else in containers on this machine's kernel"
        return Check("builds", Level.OK, f"{where}; the node, when it runs, knows")
    if found == "vm":
        return Check("builds", Level.OK, "in a microVM each")
    return Check("builds", Level.WARN, "in containers on this machine's kernel", IN_CONTAINERS)


def node_health(settings: Settings) -> NodeHealth | None:
    """Return how a running node is, or None when none answers."""
    transport = httpx2.HTTPTransport(uds=str(settings.node_socket))
    with httpx2.Client(transport=transport, base_url="http://node", timeout=5) as node:
        try:
            return NodeHealth.model_validate_json(node.get("/v1/health").content)
        except (httpx2.HTTPError, ValueError):
            return None


def kvm_fault() -> str | None:
    """Return why KVM cannot be used, or None when /dev/kvm answers as it should."""
    try:
        with Path("/dev/kvm").open("rb+", buffering=0) as device:
            version = fcntl.ioctl(device, KVM_GET_API_VERSION)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None if version == 12 else f"/dev/kvm speaks version {version}"


def check_cgroups() -> Check:
    """Cgroups hold a VM's processor time and memory within bounds."""
    if Path("/sys/fs/cgroup/cgroup.controllers").is_file():
        found, folder = "version 2", Path("/sys/fs/cgroup")
    elif Path("/sys/fs/cgroup/memory").is_dir():
        found, folder = "version 1", Path("/sys/fs/cgroup/memory")
    else:
        return Check("cgroups", Level.WARN, "none", NO_CGROUPS)
    if not os.access(folder, os.W_OK):
        return Check("cgroups", Level.WARN, f"{found}, not writable", NO_CGROUPS)
    return Check("cgroups", Level.OK, found)


def check_memory(settings: Settings) -> Check:
    """How many VMs of the default shape the memory is good for."""
    fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    total, free = (int(fields[name].split()[0]) // 1024 for name in ("MemTotal", "MemAvailable"))
    fits = int(total * settings.memory_overcommit) // 256
    found = f"{total} MB, {free} MB free; promises up to {fits} VMs of 256 MB"
    if free < 1024:
        return Check("memory", Level.WARN, found, "Less than 1 GB is free; builds need up to 2.")
    return Check("memory", Level.OK, found)


def check_disk(settings: Settings) -> Check:
    """Room for images, templates and the disks of VMs."""
    folder = there(settings.data_dir)
    free = shutil.disk_usage(folder).free / GB
    found = f"{free:.0f} GB free at {folder}"
    if free < 2:
        return Check("disk", Level.FAIL, found, "At least 2 GB are needed; 20 are comfortable.")
    if free < 10:
        return Check("disk", Level.WARN, found, "20 GB are comfortable.")
    return Check("disk", Level.OK, found)


def check_store(settings: Settings) -> Check:
    """Room for what the server writes: records, logs, builds that wait."""
    folder = there(settings.server_dir)
    free, least = shutil.disk_usage(folder).free >> 20, settings.min_free_store_mb
    found = f"{free} MB free at {folder}; below {least} MB nothing new is taken on"
    if free < least:
        advice = "Calls that make things are refused (503, no_room): free some of that disk."
        return Check("store", Level.FAIL, found, advice)
    if free < 2 * least:
        return Check("store", Level.WARN, found, "Free some of that disk.")
    return Check("store", Level.OK, found)


def there(folder: Path) -> Path:
    """Return ``folder``, or the one it will be made in."""
    return next(each for each in (folder.absolute(), *folder.absolute().parents) if each.exists())
