"""A microVM under a test's control: booted once, snapshotted, restored for each test."""

import asyncio
import contextlib
import secrets
import subprocess
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

from qemu.qmp import QMPClient

from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import (
    Exited,
    Failed,
    GuestFrame,
    HostFrame,
    Identity,
    Line,
    Rehearse,
    Rehearsed,
    Run,
    Started,
)
from tests.integration.node.guest.materials import Materials

F = TypeVar("F", bound=GuestFrame)

DEADLINE_S = 60.0
MEMORY_MB = 256
ADDRESS, GATEWAY = "10.0.2.15/24", "10.0.2.2"


@dataclass(frozen=True, slots=True)
class Template:
    """A machine's memory and state, taken while its guest waited; materials.scratch with them."""

    materials: Materials
    memory: Path
    state: Path


@dataclass(frozen=True, slots=True)
class Disks:
    """What lies behind a machine's disks."""

    image: Path
    scratch: Path
    volume: Path


class Talk:
    """A conversation with a guest; keeps what it said."""

    def __init__(self, channel: GuestChannel) -> None:
        self.channel = channel
        self.frames: list[GuestFrame] = []

    async def send(self, frame: HostFrame) -> None:
        await self.channel.send(frame)

    async def send_at_once(self, *frames: HostFrame) -> None:
        """Send frames in one piece, with no time between them."""
        await self.channel.send(*frames)

    async def next(self) -> GuestFrame:
        async with asyncio.timeout(DEADLINE_S):
            frame = await self.channel.receive()
        assert frame is not None, "the guest hung up"
        self.frames.append(frame)
        return frame

    async def until(self, kind: type[F]) -> F:
        """Receive up to a frame of ``kind``."""
        while True:
            frame = await self.next()
            if isinstance(frame, kind):
                return frame
            assert not isinstance(frame, Failed), frame

    async def ended(self) -> None:
        """Receive up to the end of the connection."""
        async with asyncio.timeout(DEADLINE_S):
            while (frame := await self.channel.receive()) is not None:
                self.frames.append(frame)

    @property
    def lines(self) -> list[Line]:
        return [frame for frame in self.frames if isinstance(frame, Line)]

    def printed(self, stream: str = "stdout") -> list[str]:
        """Return the lines of one stream."""
        return [line.text.decode() for line in self.lines if line.stream == stream]


class Machine:
    """One running QEMU."""

    def __init__(self, folder: Path, qemu: Process, monitor: QMPClient) -> None:
        self.folder = folder
        self.qemu = qemu
        self.monitor = monitor

    @contextlib.asynccontextmanager
    async def talk(self, acked: int = 0) -> AsyncGenerator[Talk]:
        """Connect and shake hands; disconnect at the end."""
        channel = await GuestChannel.connect(
            self.folder / "port", acked=acked, timeout_s=DEADLINE_S
        )
        try:
            yield Talk(channel)
        finally:
            await channel.close()

    async def swap_image(self, image: Path) -> None:
        """Put another file behind the image disk."""
        node = f"file-{image.name}"
        file = {"driver": "file", "node-name": node, "filename": str(image), "read-only": True}
        await self.monitor.execute("blockdev-add", file)
        raw = {"driver": "raw", "node-name": "image", "file": node, "read-only": True}
        await self.monitor.execute("blockdev-reopen", {"options": [raw]})

    async def gone(self) -> int:
        """Wait for QEMU's end; returns its exit status."""
        async with asyncio.timeout(DEADLINE_S):
            return await self.qemu.wait()


def run_order(*argv: str, **changes: object) -> Run:
    """Return an order to run ``argv``; ``changes`` are further fields of it."""
    names = ("clock_ns", "seed", "hostname", "dns", "vm_id", "domain")
    own = {name: changes.pop(name) for name in names if name in changes}
    return Run(**({"identity": identity(**own), "argv": argv} | changes))  # type: ignore[arg-type]


def identity(**changes: object) -> Identity:
    """Return an identity of the present; ``changes`` are fields of it."""
    fields: dict[str, object] = {
        "clock_ns": time.time_ns(),
        "seed": secrets.token_bytes(32),
        "hostname": "vm",
    }
    return Identity(**(fields | changes))  # type: ignore[arg-type]


def shell(script: str, **changes: object) -> Run:
    """Return an order to run a shell script."""
    return run_order("sh", "-c", script, **changes)


async def run_to_end(talk: Talk, order: Run) -> Exited:
    """Run a program; returns when it has exited and all it printed was received."""
    await talk.send(order)
    assert isinstance(await talk.next(), Started), talk.frames
    return await talk.until(Exited)


async def rehearse(talk: Talk, *argv: str) -> None:
    await talk.send(Rehearse(argv))
    answer = await talk.next()
    assert isinstance(answer, Rehearsed), answer


async def written(disk: Path, content: bytes) -> None:
    """Wait until a machine has written ``content`` to a disk."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            if content in await asyncio.to_thread(disk.read_bytes):
                return
            await asyncio.sleep(0.02)


async def make_template(materials: Materials, folder: Path) -> Template:
    """Boot a machine until its guest waits, and take a snapshot of it."""
    template = Template(materials, folder / "memory", folder / "state")
    volume = folder / "volume"
    volume.write_bytes(bytes(1 << 20))
    disks = Disks(materials.image, materials.scratch, volume)
    arguments = _arguments(materials, template.memory, disks, ["-append", _command_line()])
    async with _qemu(folder, [*arguments, "-initrd", str(materials.initramfs)], "on") as machine:
        async with machine.talk() as talk:
            assert talk.channel.hello.state == "waiting"
        await machine.monitor.execute("stop")
        await _allow_shared(machine.monitor)
        await machine.monitor.execute("migrate", {"uri": f"exec:cat > {template.state}"})
        await _reached(machine.monitor, "query-migrate", "completed")
    return template


@contextlib.asynccontextmanager
async def restored(
    template: Template, folder: Path, image: Path | None = None, volume: Path | None = None
) -> AsyncGenerator[Machine]:
    """Restore a machine from ``template`` on disks of its own; killed at the end."""
    scratch = folder / "scratch"
    copy = ["cp", "--sparse=always", template.materials.scratch, scratch]
    await asyncio.to_thread(subprocess.run, copy, check=True)
    if volume is None:
        volume = folder / "no-volume"
        volume.write_bytes(bytes(1 << 20))
    disks = Disks(image or template.materials.image, scratch, volume)
    arguments = _arguments(template.materials, template.memory, disks, ["-incoming", "defer"])
    async with _qemu(folder, arguments, "off") as machine:
        await _allow_shared(machine.monitor)
        await machine.monitor.execute("migrate-incoming", {"uri": f"exec:cat {template.state}"})
        await _reached(machine.monitor, "query-migrate", "completed")
        await machine.monitor.execute("cont")
        yield machine


def _command_line() -> str:
    cpu = Path("/proc/cpuinfo").read_text()
    mhz = next(line for line in cpu.splitlines() if line.startswith("cpu MHz")).split(":")[1]
    return (
        "console=ttyS0 panic=-1 init_on_alloc=0 "
        f"tsc=reliable tsc_early_khz={int(float(mhz) * 1000)} "
        f"CW_ADDRESS={ADDRESS} CW_GATEWAY={GATEWAY} CW_EMULATED=1"
    )


def _arguments(materials: Materials, memory: Path, disks: Disks, more: list[str]) -> list[str]:
    device = "virtio-{},{}".format
    words = [
        "qemu-system-x86_64 -M microvm,acpi=on,memory-backend=ram -accel tcg -cpu max",
        f"-m {MEMORY_MB} -nodefaults -no-user-config -display none -no-reboot",
        "-serial file:console",
        f"-kernel {materials.kernel}",
        f"-object memory-backend-file,id=ram,size={MEMORY_MB}M,mem-path={memory},share=SHARE",
        "-qmp unix:qmp,server=on,wait=off",
        "-netdev user,id=net,restrict=on",
        f"-device {device('net-device', 'netdev=net')}",
    ]
    for name, path in (
        ("image", disks.image),
        ("scratch", disks.scratch),
        ("volume", disks.volume),
    ):
        only = "on" if name == "image" else "off"
        words += [
            f"-blockdev driver=file,node-name=file-{name}-0,filename={path},read-only={only}",
            f"-blockdev driver=raw,node-name={name},file=file-{name}-0,read-only={only}",
            f"-device {device('blk-device', f'drive={name},serial={name}')}",
        ]
    words += [
        "-chardev socket,id=port,path=port,server=on,wait=off",
        f"-device {device('serial-device', 'max_ports=2')}",
        "-device virtserialport,chardev=port,name=cakework",
    ]
    return " ".join(words).split() + more


@contextlib.asynccontextmanager
async def _qemu(folder: Path, arguments: list[str], share: str) -> AsyncGenerator[Machine]:
    """Run QEMU in ``folder``, where its console is kept; killed at the end."""
    arguments = [word.replace("share=SHARE", f"share={share}") for word in arguments]
    for name in ("qmp", "port"):
        (folder / name).unlink(missing_ok=True)
    qemu = await asyncio.create_subprocess_exec(*arguments, cwd=folder)
    monitor = QMPClient()
    try:
        async with asyncio.timeout(DEADLINE_S):
            while not (folder / "qmp").exists() or not (folder / "port").exists():
                assert qemu.returncode is None, "QEMU did not start"
                await asyncio.sleep(0.005)
        await monitor.connect(str(folder / "qmp"))
        yield Machine(folder, qemu, monitor)
    finally:
        with contextlib.suppress(ProcessLookupError):
            qemu.kill()
        await qemu.wait()
        with contextlib.suppress(Exception):
            await monitor.disconnect()
        print((folder / "console").read_text(errors="replace"))


async def _allow_shared(monitor: QMPClient) -> None:
    shared = {"capability": "x-ignore-shared", "state": True}
    await monitor.execute("migrate-set-capabilities", {"capabilities": [shared]})


async def _reached(monitor: QMPClient, query: str, status: str) -> None:
    """Wait until QEMU tells of a status."""
    async with asyncio.timeout(DEADLINE_S):
        while True:
            answer = cast(dict[str, object], await monitor.execute(query))
            assert answer.get("status") != "failed", answer
            if answer.get("status") == status:
                return
            await asyncio.sleep(0.005)
