"""The workshop: makes templates when they are first wanted, and keeps the ones in use.

    templates/<fingerprint>/    a whole template: see template.py
    templates/.making-*/        not whole yet, or on its way out; removed at start

The fingerprint covers all that a template depends on, so one made by other software, for
another shape or on another processor is never found, and goes when room is needed.

Whoever starts VMs says of what shape they are. So templates are made one after the other, and one
that is not in use goes for each that would be too many.
"""

import asyncio
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import structlog

from cakework.domain.errors import Unavailable
from cakework.domain.vms import Shape
from cakework.node.cleanup import cleanup
from cakework.node.guest.protocol import GuestError
from cakework.node.listing import entries
from cakework.node.vms.artifacts import BUSYBOX, Artifacts, tsc_khz
from cakework.node.vms.disks import make_erofs, make_ext4
from cakework.node.vms.host import Host
from cakework.node.vms.machines import BOOT_TIMEOUT_S, Machine
from cakework.node.vms.qemu import MachineSpec
from cakework.node.vms.template import Template
from cakework.unbroken import unbroken

MAKING = ".making-"
BOOTS_S = (45.0, BOOT_TIMEOUT_S)
"""How long a guest may take to answer from its boot, the first time and the next. One with two
processors was seen to hang, emulated by QEMU 7.2: for the reason, it is thought, that ``UNGROUPED``
in qemu.py gives, as some patching of the kernel's own code is left at boot."""
log = structlog.get_logger("cakework.node.workshop")


class Workshop:
    """Templates of one node, made with one accelerator (``kvm`` or ``tcg``)."""

    def __init__(
        self,
        folder: Path,
        host: Host,
        accelerator: str,
        *,
        disk_gb: int,
        most: int,
        role: str = "",
        boots_s: tuple[float, ...] | None = None,
    ) -> None:
        """``boots_s``: how long a guest may take to answer, the first time and the next."""
        self._boots_s = boots_s
        self._folder = folder
        self._host = host
        self._disk_gb = disk_gb
        self._most = most
        self._role = role
        self._locks: dict[str, asyncio.Lock] = {}
        self._used: dict[str, Template] = {}
        self._turn = asyncio.Lock()
        self.in_use: Callable[[], Iterable[Shape]] = tuple
        """Says of which shapes there are VMs, or will be: their templates stay."""
        self.accelerator = accelerator
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for leftover in folder.glob(f"{MAKING}*"):
            shutil.rmtree(leftover)

    async def template(self, shape: Shape) -> Template:
        """Return the template for ``shape``, making it first if it is not there (seconds, when it
        is its turn).

        Raises CakeworkError when it cannot be made.
        """
        spec, name = self.spec(shape), self.fingerprint(shape)
        async with self._locks.setdefault(name, asyncio.Lock()):
            template = self._used.pop(name, None) or Template(self._folder / name, spec)
            if not template.folder.exists():
                async with self._turn:
                    self._make_way(template)
                    await self._boot(template)
            self._used[name] = template
        return template

    def discard_surplus(self) -> None:
        """Remove the templates least recently used, beyond the bound, and those that were not used
        since the node started; not those of shapes in use.

        Machines restored from a removed one keep its files until they end.
        """
        wanted = set(self.in_use())
        kept = [name for name, template in self._used.items() if template.spec.shape in wanted]
        others = [name for name in self._used if name not in kept]
        room = max(0, self._most - len(kept))
        keep = {*kept, *others[len(others) - room :]} if room else set(kept)
        for folder in entries(self._folder):
            if folder.name not in keep and not folder.name.startswith(MAKING):
                self._discard(folder)

    def fingerprint(self, shape: Shape) -> str:
        """Return what the template for ``shape`` is called: 32 hexadecimal digits."""
        spec = self.spec(shape)
        words = [*spec.common(), spec.kernel_arguments(), self._host.artifacts.digest]
        words.append(f"disk {self._disk_gb}")
        return hashlib.sha256("\0".join(words).encode()).hexdigest()[:32]

    def spec(self, shape: Shape) -> MachineSpec:
        """Return what machines of ``shape`` are."""
        return MachineSpec(self.accelerator, shape, tsc_khz(), self._role)

    def _make_way(self, template: Template) -> None:
        """Remove what is used least, so that there are not too many with ``template``."""
        wanted = {template.spec.shape, *self.in_use()}
        made = [folder for folder in entries(self._folder) if not folder.name.startswith(MAKING)]
        unused = [folder for folder in made if folder.name not in self._used]
        used = [
            one.folder
            for one in self._used.values()
            if one.spec.shape not in wanted and one.folder in made
        ]
        surplus = max(0, len(made) + 1 - self._most)
        for folder in [*unused, *used][:surplus]:
            self._discard(folder)

    def _discard(self, folder: Path) -> None:
        self._used.pop(folder.name, None)
        with cleanup("template", name=folder.name):
            _remove(folder)

    async def _boot(self, template: Template) -> None:
        *before, last_s = self._boots_s or BOOTS_S
        for timeout_s in before:
            try:
                await self._make(template, timeout_s)
            except GuestError as error:
                log.warning("template.silent", why=error.detail)
            else:
                return
        await self._make(template, last_s)

    async def _make(self, template: Template, timeout_s: float) -> None:
        shape = template.spec.shape
        log.info("template.making", cpu=shape.cpu, memory_mb=shape.memory_mb)
        making = Template(Path(tempfile.mkdtemp(prefix=MAKING, dir=self._folder)), template.spec)
        try:
            making.folder.chmod(0o755)
            lay_out = partial(_lay_out, making, self._host.artifacts, self._disk_gb)
            await unbroken(asyncio.to_thread(lay_out, shape.memory_mb))
            machine = await Machine.boot(self._host, making, timeout_s)
            try:
                await self._save(machine, making)
            finally:
                await machine.release()
            making.folder.rename(template.folder)
        except (OSError, subprocess.CalledProcessError) as error:
            raise Unavailable(f"a template could not be made: {error}") from error
        finally:
            shutil.rmtree(making.folder, ignore_errors=True)
        log.info("template.made", cpu=shape.cpu, memory_mb=shape.memory_mb)

    async def _save(self, machine: Machine, making: Template) -> None:
        await machine.rehearse()
        await machine.channel.close()
        making.scratch.unlink()
        await machine.save(making)
        for file in ("vmlinuz", "initramfs"):
            (making.folder / file).unlink()
        for file in making.folder.iterdir():
            os.chown(file, 0, 0)
            file.chmod(0o444)


def _remove(folder: Path) -> None:
    """Remove a template; nobody takes for one what is left of it if that fails."""
    gone = Path(tempfile.mkdtemp(prefix=MAKING, dir=folder.parent))
    folder.rename(gone / folder.name)
    shutil.rmtree(gone)


def _lay_out(making: Template, artifacts: Artifacts, disk_gb: int, memory_mb: int) -> None:
    """Put what a boot needs into the folder. The memory's file is writable for its QEMU."""
    shutil.copyfile(artifacts.kernel, making.folder / "vmlinuz")
    artifacts.write_initramfs(making.folder / "initramfs")
    make_ext4(making.scratch, disk_gb, journal=False)
    with making.ram.open("wb") as ram:
        ram.truncate(memory_mb << 20)
    making.ram.chmod(0o666)
    with tempfile.TemporaryDirectory(dir=making.folder) as work:
        _rehearsal_tree(Path(work))
        make_erofs(making.folder / "rehearsal.erofs", Path(work))
    for file in making.folder.iterdir():
        if file != making.ram:
            file.chmod(0o444)


def _rehearsal_tree(root: Path) -> None:
    for folder in ("bin", "dev", "etc", "proc", "sys", "tmp", "data"):
        (root / folder).mkdir()
    shutil.copy(BUSYBOX, root / "bin" / "busybox")
    (root / "bin" / "cat").symlink_to("busybox")
    (root / "etc" / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    (root / "etc" / "group").write_text("root:x:0:\n")
