"""What `cakework doctor` looks at, one function per thing; each returns a :class:`Check`."""

import fcntl
import os
import platform
import pwd
import shutil
import socket
import subprocess
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cakework.cli.privileges import hidden_paths, needed_paths
from cakework.settings import Settings

SET_UP = "Run tools/setup (or any make target) in the repository."
KVM_GET_API_VERSION = 0xAE00
"""From Linux's include/uapi/linux/kvm.h; the answer has been 12 since 2007."""
GB = 1_000_000_000


class Level(StrEnum):
    """How bad what was found is."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Check:
    """One thing looked at: what was found, and what to do about it."""

    name: str
    level: Level
    found: str
    advice: str = ""

    def as_dict(self) -> dict[str, str]:
        """Return the check as `--json` prints it."""
        return {
            "name": self.name,
            "level": self.level.value,
            "found": self.found,
            "advice": self.advice,
        }


def all_checks(settings: Settings) -> list[Check]:
    """Look at everything, in the order it is needed."""
    programs = [check_program(*program) for program in PROGRAMS]
    return [
        check_system(),
        check_root(),
        check_kvm(settings),
        *programs,
        check_kernel(),
        check_guest(),
        check_tun(),
        check_namespaces(),
        check_nftables(),
        check_cgroups(),
        check_memory(settings),
        check_disk(settings),
        check_server_user(settings),
        check_port("port API", settings.host, settings.port, "CAKEWORK_PORT"),
        check_port("port router", settings.proxy_host, settings.proxy_port, "CAKEWORK_PROXY_PORT"),
    ]


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
    verdict = kvm_verdict()
    if verdict is None:
        found = "/dev/kvm answers; the node boots a VM to see whether it really works"
        return Check("KVM", Level.OK, found)
    level = Level.FAIL if settings.accelerator == "kvm" else Level.WARN
    return Check("KVM", level, verdict, SLOW)


SLOW = (
    "VMs run by emulation: real VMs all the same, but their code runs several times slower. "
    "Faster: bare metal, or a cloud machine with nested virtualisation."
)


def kvm_verdict() -> str | None:
    """Return why KVM cannot be used, or None when /dev/kvm answers as it should."""
    try:
        with Path("/dev/kvm").open("rb+", buffering=0) as device:
            version = fcntl.ioctl(device, KVM_GET_API_VERSION)
    except OSError as error:
        return f"/dev/kvm: {error.strerror}"
    return None if version == 12 else f"/dev/kvm speaks version {version}"


PROGRAMS = (
    ("qemu", "qemu-system-x86_64", "qemu-system-x86"),
    ("buildah", "buildah", "buildah"),
    ("runc", "runc", "runc"),
    ("erofs", "mkfs.erofs", "erofs-utils"),
    ("ext4", "mkfs.ext4", "e2fsprogs"),
    ("mmdebstrap", "mmdebstrap", "mmdebstrap"),
    ("busybox", "busybox", "busybox-static"),
    ("nft", "nft", "nftables"),
    ("ip", "ip", "iproute2"),
)


def check_program(name: str, program: str, package: str) -> Check:
    """A program that the node runs, and the version of its Debian package."""
    path = find_program(program)
    if path is None:
        advice = f"apt-get install --no-install-recommends {package}"
        return Check(name, Level.FAIL, f"{program} is not installed", advice)
    done = run(["dpkg-query", "--show", "--showformat=${Version}", package])
    version = done.stdout if done.returncode == 0 else "not from a Debian package"
    return Check(name, Level.OK, f"{path} {version}")


def find_program(program: str) -> str | None:
    """Return where a program lies, also in the folders for root's programs."""
    path = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"])
    return shutil.which(program, path=path)


def build_dir() -> Path:
    """Return where set-up puts what it builds."""
    return Path(__file__).resolve().parents[3] / ".build"


def check_kernel() -> Check:
    """The kernel that VMs boot."""
    folder = build_dir() / "kernel"
    release = folder / "release"
    if not release.is_file() or not (folder / "vmlinuz").is_file():
        return Check("kernel", Level.FAIL, f"not in {folder}", SET_UP)
    return Check("kernel", Level.OK, release.read_text().strip())


def check_guest() -> Check:
    """The program that is pid 1 in every VM."""
    program = build_dir() / "guest" / "cakework-guest"
    if not os.access(program, os.X_OK):
        return Check("guest", Level.FAIL, f"not at {program}", SET_UP)
    return Check("guest", Level.OK, f"{program.stat().st_size // 1024} KiB")


def check_tun() -> Check:
    """VMs reach the network through tap devices."""
    try:
        os.close(os.open("/dev/net/tun", os.O_RDWR))
    except OSError as error:
        return Check("/dev/net/tun", Level.FAIL, str(error.strerror), "modprobe tun, as root.")
    return Check("/dev/net/tun", Level.OK, "opens")


def check_namespaces() -> Check:
    """Each VM has a network namespace, the server sometimes a mount namespace."""
    done = run(["unshare", "--net", "--mount", "true"])
    if done.returncode != 0:
        advice = "Run as root, and not inside a container without CAP_SYS_ADMIN."
        return Check("namespaces", Level.FAIL, last_line(done.stderr), advice)
    return Check("namespaces", Level.OK, "network and mount")


def check_nftables() -> Check:
    """What a VM may reach is decided by nftables rules in its namespace."""
    rules = "add table inet t; add chain inet t c { type filter hook forward priority 0; }"
    done = run(["unshare", "--net", find_program("nft") or "nft", rules])
    if done.returncode != 0:
        advice = "The kernel needs nf_tables; without it VMs are not started."
        return Check("nftables", Level.FAIL, last_line(done.stderr), advice)
    return Check("nftables", Level.OK, "takes rules")


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


NO_CGROUPS = "A VM's memory is bounded by QEMU alone, and its processor time is not."


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
    folder = next(
        f
        for f in (settings.data_dir.absolute(), *settings.data_dir.absolute().parents)
        if f.exists()
    )
    free = shutil.disk_usage(folder).free / GB
    found = f"{free:.0f} GB free at {folder}"
    if free < 2:
        return Check("disk", Level.FAIL, found, "At least 2 GB are needed; 20 are comfortable.")
    if free < 10:
        return Check("disk", Level.WARN, found, "20 GB are comfortable.")
    return Check("disk", Level.OK, found)


def check_server_user(settings: Settings) -> Check:
    """Who the server runs as, and whether that user reaches its files."""
    try:
        account = pwd.getpwnam(settings.server_user)
    except KeyError:
        advice = "adduser --system, or CAKEWORK_SERVER_USER."
        return Check("server user", Level.FAIL, f"{settings.server_user}: no such user", advice)
    covers = sorted(
        {str(cover) for cover in hidden_paths(needed_paths(settings), account).values()}
    )
    way = f"; gets its own view of {', '.join(covers)}" if covers else ""
    return Check("server user", Level.OK, f"{account.pw_name} (uid {account.pw_uid}){way}")


def check_port(name: str, host: str, port: int, setting: str) -> Check:
    """Whether a port is free, or Cakework's own."""
    where = f"{host}:{port}"
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            advice = f"If that is not Cakework itself, set {setting} to another port."
            return Check(name, Level.WARN, f"{where}: {error.strerror}", advice)
    return Check(name, Level.OK, f"{where} is free")


def run(argv: list[str]) -> "subprocess.CompletedProcess[str]":
    """Run a program for at most ten seconds and return what it said."""
    try:
        return subprocess.run(argv, capture_output=True, text=True, check=False, timeout=10)
    except (OSError, subprocess.TimeoutExpired) as error:
        return subprocess.CompletedProcess(argv, 127, "", str(error))


def last_line(text: str) -> str:
    """Return the last line of a program's complaint."""
    return (text.strip().splitlines() or ["no reason given"])[-1]
