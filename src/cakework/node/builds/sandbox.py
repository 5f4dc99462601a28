"""Where a build's commands run: out of reach of the host, and bounded.

Root inside is an unprivileged id outside. It sees the host's /usr (read-only), the layers it is
given and its own work folder, no process but its own, and the network it is given. When
its first process ends, the kernel ends all others and takes their mounts away; that process
ends when it is told to, and when the node does.
"""

import asyncio
import contextlib
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cakework.node.builds.identities import ROOT_ID
from cakework.node.builds.layers import LayerStore
from cakework.node.builds.storage import CA
from cakework.node.cgroups import Cgroup
from cakework.unbroken import unbroken

SCRIPT = Path(__file__).with_name("sandbox.sh")
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
READ_BYTES = 65_536

Sink = Callable[[bytes], Awaitable[None] | None]
"""Takes the next bytes; what it returns is waited for before there are more."""


@dataclass(frozen=True, slots=True)
class Confinement:
    """What one command gets: its folder, network, bounds.

    ``network`` is the path of a network namespace, or None for the host's network, which is
    for commands that take no orders from a stranger. ``apt`` shows the host's apt
    configuration. ``store`` is where layers are read and written, ``bases`` one to read besides.
    """

    work: Path
    resolv_conf: Path
    cgroup: Cgroup
    file_bytes: int
    network: str | None = None
    apt: bool = False
    store: LayerStore | None = None
    bases: LayerStore | None = None


class Sandbox:
    """Runs commands on the storage in ``home``, in the user namespace of descriptor ``ids_fd``."""

    def __init__(self, home: Path, ids_fd: int) -> None:
        self._home = home
        self._ids_fd = ids_fd

    async def run(
        self,
        argv: Sequence[str],
        confinement: Confinement,
        stdout: Sink,
        stderr: Sink,
        stdin: bytes = b"",
    ) -> int:
        """Run ``argv`` to its end, its output going to the sinks; return its exit status.

        ``stdin`` is for what no other process may see. When cancelled, or when this process
        ends, so does all that it started.
        """
        process = await asyncio.create_subprocess_exec(
            "/bin/sh",
            str(SCRIPT),
            "enter",
            confinement.network or "",
            *argv,
            stdin=asyncio.subprocess.PIPE if stdin else asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self._environment(confinement),
            pass_fds=(self._ids_fd,),
            start_new_session=True,
        )
        try:
            await asyncio.gather(
                _feed(process.stdin, stdin),
                _pump(process.stdout, stdout),
                _pump(process.stderr, stderr),
            )
            return await process.wait()
        finally:
            await unbroken(_end(process, confinement.cgroup))

    async def read(
        self, argv: Sequence[str], confinement: Confinement, stdin: bytes = b""
    ) -> tuple[int, str, str]:
        """Run ``argv`` as :meth:`run` does; return its status, stdout and stderr."""
        stdout, stderr = bytearray(), bytearray()
        status = await self.run(argv, confinement, stdout.extend, stderr.extend, stdin)
        return status, stdout.decode(errors="replace"), stderr.decode(errors="replace")

    def _environment(self, confinement: Confinement) -> dict[str, str]:
        scratch = f"/b/{confinement.work.name}/tmp"  # noqa: S108 - its own, below its folder
        storage_conf = "storage.conf" if confinement.bases else "bases.conf"
        ca = {"SSL_CERT_FILE": f"/b/etc/{CA}", "GIT_SSL_CAINFO": f"/b/etc/{CA}"}
        return {
            **(ca if (self._home / "etc" / CA).exists() else {}),
            "PATH": PATH,
            "LANG": "C.UTF-8",
            "HOME": scratch,
            "TMPDIR": scratch,
            "CONTAINERS_STORAGE_CONF": f"/b/etc/{storage_conf}",
            "CONTAINERS_REGISTRIES_CONF": "/b/etc/registries.conf",
            "CONTAINERS_CONF": "/b/etc/containers.conf",
            "REGISTRY_AUTH_FILE": "/b/etc/auth.json",
            "CW_CGROUPS": " ".join(str(file) for file in confinement.cgroup.procs_files()),
            "CW_PARENT": str(os.getpid()),
            "CW_IDS_FD": str(self._ids_fd),
            "CW_ROOT_ID": str(ROOT_ID),
            "CW_HOME": str(self._home),
            "CW_WORK": str(confinement.work),
            "CW_RESOLV": str(confinement.resolv_conf),
            "CW_STORE": str(confinement.store.folder) if confinement.store else "",
            "CW_BASES": str(confinement.bases.storage) if confinement.bases else "",
            "CW_APT": "1" if confinement.apt else "",
            "CW_FILE_BYTES": str(confinement.file_bytes),
        }


async def _feed(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    """Write ``data`` and end; a process that ends without reading it is none of our business."""
    if stream:
        with contextlib.suppress(ConnectionError):
            stream.write(data)
            await stream.drain()
        stream.close()


async def _pump(stream: asyncio.StreamReader | None, sink: Sink) -> None:
    while stream and (chunk := await stream.read(READ_BYTES)):
        if (taking := sink(chunk)) is not None:
            await taking


async def _end(process: asyncio.subprocess.Process, cgroup: Cgroup) -> None:
    """Kill what runs, the namespace's first process first: its end waits for all others."""
    while process.returncode is None:
        for pid in _children(process.pid) or [process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1):
                await process.wait()
    await cgroup.empty()


def _children(pid: int) -> list[int]:
    file = Path("/proc") / str(pid) / "task" / str(pid) / "children"
    with contextlib.suppress(OSError):
        return [int(child) for child in file.read_text().split()]
    return []
