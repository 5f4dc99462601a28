"""A QEMU without any of ours: the same machine and kernel, booted, with one program in it."""

import contextlib
import os
import subprocess
import tempfile
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path

from benchmarks.processes import first_line_ms
from cakework.node.vms.artifacts import BUSYBOX, tsc_khz
from cakework.node.vms.qemu import QEMU

KERNEL = Path(__file__).parents[1] / ".build" / "kernel" / "vmlinuz"
MEMORY_MB = 256


@dataclass(frozen=True)
class Emulator:
    """Boots a kernel with ``initrd`` under emulation."""

    initrd: Path

    def boot_ms(self) -> float:
        """Time QEMU from its start to the first line of the program in it, in milliseconds."""
        return first_line_ms(
            [
                QEMU,
                *("-nodefaults", "-no-user-config", "-display", "none", "-no-reboot"),
                *("-M", "microvm,acpi=on,pit=off,pic=off,rtc=on,isa-serial=on"),
                *("-accel", "tcg,thread=multi", "-cpu", "max", "-m", str(MEMORY_MB)),
                *("-kernel", str(KERNEL), "-initrd", str(self.initrd), "-serial", "stdio"),
                *("-append", f"console=ttyS0 quiet loglevel=0 panic=-1 reboot=t {_tsc()}"),
            ],
            dict(os.environ),
        )


@contextlib.contextmanager
def emulator(line: str) -> Generator[Emulator]:
    """Give an emulator whose only program prints ``line`` and ends the machine."""
    with tempfile.TemporaryDirectory(prefix="cakework-bench-qemu-") as name:
        root = Path(name) / "root"
        (root / "bin").mkdir(parents=True)
        (root / "bin" / "busybox").write_bytes(BUSYBOX.read_bytes())
        (root / "bin" / "busybox").chmod(0o755)
        init = root / "init"
        init.write_text(f"#!/bin/busybox sh\necho {line}\nexec /bin/busybox reboot -f\n")
        init.chmod(0o755)
        initrd = Path(name) / "initrd"
        pack = f"find . | {BUSYBOX} cpio -o -H newc"
        with initrd.open("wb") as file:
            subprocess.run(
                ["sh", "-c", pack], cwd=root, stdout=file, check=True, stderr=subprocess.DEVNULL
            )
        yield Emulator(initrd)


def _tsc() -> str:
    return f"tsc_early_khz={tsc_khz()} tsc=reliable init_on_alloc=0 mitigations=off"
