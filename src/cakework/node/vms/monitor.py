"""QEMU's monitor (QMP): the few commands a machine needs."""

import asyncio
import logging
import os
import socket
from pathlib import Path
from typing import Any, cast

from qemu.qmp import QMPClient, QMPError

from cakework.domain.errors import Unavailable
from cakework.node.sockets import connect

POLL_S = 0.002
CLOSE_TIMEOUT_S = 1.0
STATE = "state"
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)


class MonitorError(Unavailable):
    """QEMU refused a command or does not answer."""


class Monitor:
    """One connection to the monitor of one QEMU. Every call raises MonitorError if it fails."""

    def __init__(self, client: QMPClient, wire: socket.socket) -> None:
        self._client = client
        self._wire = wire

    @classmethod
    async def connect(cls, path: Path, timeout_s: float) -> "Monitor":
        """Connect to the socket at ``path``; waits for QEMU to be up."""
        client = QMPClient("machine")
        try:
            connected = connect(path)
        except OSError as error:
            raise MonitorError(f"QEMU's monitor does not answer: {error}") from error
        wire = connected.dup()
        try:
            async with asyncio.timeout(timeout_s):
                await client.connect(connected)
        except BaseException as error:
            wire.close()
            if isinstance(error, TimeoutError):
                why = f"QEMU's monitor did not answer in {timeout_s:g} s"
                raise MonitorError(why) from error
            if isinstance(error, QMPError | OSError | EOFError):
                raise MonitorError(f"QEMU's monitor does not answer: {error}") from error
            raise
        return cls(client, wire)

    async def command(self, name: str, timeout_s: float = 10, **arguments: object) -> object:
        """Give one command and return what it returns."""
        named = {key.replace("_", "-"): value for key, value in arguments.items()}
        try:
            async with asyncio.timeout(timeout_s):
                return await self._client.execute(name, named)
        except TimeoutError as error:
            raise MonitorError(f"QEMU did not answer {name} in {timeout_s:g} s") from error
        except (QMPError, OSError, EOFError) as error:
            raise MonitorError(f"QEMU refused {name}: {error}") from error

    async def pause(self) -> None:
        """Stop the machine's processors."""
        await self.command("stop")

    async def resume(self) -> None:
        """Let the machine's processors go on."""
        await self.command("cont")

    async def check(self, timeout_s: float) -> None:
        """Ask for a sign of life."""
        await self.command("query-status", timeout_s)

    async def replace_disk(self, disk: str, file: Path, *, read_only: bool) -> None:
        """Put another file behind ``disk``; the guest must not be using it.

        QEMU gets it open, so it need not be able to find it.
        """
        added = cast(dict[str, Any], await self._pass("add-fd", file, read_only=read_only))
        await self.command(
            "blockdev-add",
            driver="file",
            node_name=f"{disk}-file-1",
            filename=f"/dev/fdset/{added['fdset-id']}",
            read_only=read_only,
        )
        node: dict[str, object] = {"driver": "raw", "node-name": disk, "file": f"{disk}-file-1"}
        await self.command("blockdev-reopen", options=[{**node, "read-only": read_only}])
        await self.command("blockdev-del", node_name=f"{disk}-file-0")

    async def load(self, fd: int, timeout_s: float) -> None:
        """Load the state from descriptor ``fd``, which QEMU inherited; returns when it runs."""
        await self._leave_memory_out()
        with self._client.listener(("RESUME",)) as resumed:
            await self.command("migrate-incoming", uri=f"fd:{fd}")
            try:
                await asyncio.wait_for(resumed.get(), timeout_s)
            except TimeoutError as error:
                raise MonitorError("QEMU could not load the machine's state") from error

    async def save(self, fd: int, timeout_s: float) -> None:
        """Write the machine's state to ``fd``, without the memory, which lies in a file."""
        await self._leave_memory_out()
        self._send(fd)
        await self.command("getfd", fdname=STATE)
        await self.command("migrate", uri=f"fd:{STATE}")
        try:
            async with asyncio.timeout(timeout_s):
                while (status := await self._migration()) != "completed":
                    if status == "failed":
                        raise MonitorError("QEMU could not save the machine's state")
                    await asyncio.sleep(POLL_S)
        except TimeoutError as error:
            raise MonitorError(f"QEMU did not save the state in {timeout_s:g} s") from error

    async def close(self) -> None:
        """Close the connection; QEMU goes on. Gives up on one that takes nothing any more."""
        self._wire.close()
        closing = asyncio.create_task(self._client.disconnect())
        closing.add_done_callback(_look_away)
        await asyncio.wait({closing}, timeout=CLOSE_TIMEOUT_S)

    async def _pass(self, command: str, file: Path, *, read_only: bool) -> object:
        """Give a command that is about ``file``, which is opened here."""
        flags = os.O_RDONLY if read_only else os.O_RDWR
        try:
            fd = os.open(file, flags | os.O_CLOEXEC)
        except OSError as error:
            raise MonitorError(f"a disk could not be opened: {error}") from error
        try:
            self._send(fd)
            return await self.command(command)
        finally:
            os.close(fd)

    def _send(self, fd: int) -> None:
        """Send a descriptor for the command that comes next; QEMU takes it with any byte."""
        try:
            socket.send_fds(self._wire, [b" "], [fd])
        except OSError as error:
            raise MonitorError(f"QEMU took no descriptor: {error}") from error

    async def _leave_memory_out(self) -> None:
        capability = {"capability": "x-ignore-shared", "state": True}
        await self.command("migrate-set-capabilities", capabilities=[capability])

    async def _migration(self) -> str:
        answer = cast(dict[str, Any], await self.command("query-migrate"))
        return str(answer.get("status", ""))


def _look_away(closed: asyncio.Task[None]) -> None:
    """A connection that was lost says so when it is closed, which is no news then."""
    if not closed.cancelled():
        closed.exception()
