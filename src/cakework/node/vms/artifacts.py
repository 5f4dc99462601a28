"""What set-up made and VMs are made of: kernel, modules, guest program, jail."""

import hashlib
import re
import subprocess
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from cakework.domain.errors import Unavailable
from cakework.node.guest.initramfs import write_initramfs
from cakework.node.vms.qemu import QEMU

BUSYBOX = Path("/bin/busybox")


@dataclass(frozen=True)
class Artifacts:
    """The files below ``folder``, which set-up leaves in ``.build``."""

    folder: Path

    @property
    def kernel(self) -> Path:
        """The kernel that VMs boot."""
        return self.folder / "kernel" / "vmlinuz"

    @property
    def guest(self) -> Path:
        """The program that is pid 1 of every VM."""
        return self.folder / "guest" / "cakework-guest"

    @property
    def jail(self) -> Path:
        """The program that confines QEMU."""
        return self.folder / "jail" / "cakework-jail"

    @property
    def preload(self) -> Path:
        """What is preloaded into a QEMU that is restored, and may be forked."""
        return self.folder / "jail" / "cakework-preload.so"

    def check(self) -> None:
        """Raise Unavailable, naming the first file that is not there and what makes it."""
        needed = (self.kernel, self.guest, self.jail, self.preload, Path(QEMU), BUSYBOX)
        for path in needed:
            if not path.exists():
                raise Unavailable(f"{path} is not there: run tools/setup")

    def write_initramfs(self, target: Path) -> None:
        """Write what the kernel unpacks at boot: guest and modules."""
        release = (self.folder / "kernel" / "release").read_text().strip()
        write_initramfs(target, self.guest, self.folder / "kernel" / "modules", release)

    @cached_property
    def digest(self) -> str:
        """What a template depends on: kernel, modules, guest, QEMU and what it rehearses with."""
        digest = hashlib.sha256()
        for path in (self.kernel, self.guest, self.folder / "kernel" / "release", BUSYBOX):
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        digest.update(_identity(Path(QEMU)))
        return digest.hexdigest()


def qemu_version() -> str:
    """Return what QEMU says it is, such as ``QEMU emulator version 7.2.22 (Debian …)``."""
    done = subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.splitlines()[0]


def tsc_khz(cpuinfo: Path = Path("/proc/cpuinfo")) -> int:
    """Return the rate of the host's time stamp counter, in kHz.

    The kernel prints twice the rate it measured, in MHz, as ``bogomips``.
    """
    found = re.search(r"^bogomips\s*:\s*([0-9.]+)", cpuinfo.read_text(), re.MULTILINE)
    if not found:
        raise Unavailable(f"{cpuinfo} does not tell the processor's rate")
    return round(float(found[1]) * 500)


def _identity(program: Path) -> bytes:
    info = program.stat()
    return f"{qemu_version()} {info.st_size} {info.st_mtime_ns}".encode()
