"""Checks of what set-up installs and builds."""

import os
import shutil

from cakework.cli.checks.check import Check, Level, run
from cakework.settings import Settings

SET_UP = "Run tools/setup (or any make target) in the repository."
BUILT = ("guest/cakework-guest", "jail/cakework-jail", "jail/cakework-preload.so")
PROGRAMS = (
    ("qemu", "qemu-system-x86_64", "qemu-system-x86"),
    ("buildah", "buildah", "buildah"),
    ("runc", "runc", "runc"),
    ("git", "git", "git"),
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


def check_kernel(settings: Settings) -> Check:
    """The kernel that VMs boot."""
    folder = settings.artifacts_dir / "kernel"
    release = folder / "release"
    if not release.is_file() or not (folder / "vmlinuz").is_file():
        return Check("kernel", Level.FAIL, f"not in {folder}", SET_UP)
    return Check("kernel", Level.OK, release.read_text().strip())


def check_built(settings: Settings) -> Check:
    """The programs built from C: pid 1 of every VM, and what confines QEMU."""
    folder = settings.artifacts_dir
    missing = [name for name in BUILT if not (folder / name).is_file()]
    if missing:
        return Check("guest", Level.FAIL, f"no {', '.join(missing)} in {folder}", SET_UP)
    return Check("guest", Level.OK, f"built, {(folder / BUILT[0]).stat().st_size // 1024} KiB")
