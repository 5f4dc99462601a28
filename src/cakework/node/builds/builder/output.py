"""What a builder machine prints, as its guest tells it: lines for the log, and how it ended."""

import asyncio
import time

from cakework.node.builds.log import LineSplitter
from cakework.node.guest.channel import GuestChannel
from cakework.node.guest.protocol import Ack, Exited, Failed, GuestError, Line, Ready


class BuilderOutput:
    """Takes in what comes over ``channel`` while :meth:`listen` runs."""

    def __init__(self, channel: GuestChannel, stdout: LineSplitter, stderr: LineSplitter) -> None:
        self._channel = channel
        self._streams = {"stdout": stdout, "stderr": stderr}
        self.ready = asyncio.Event()
        """Set when the program listens for its connection."""
        self.end: Exited | None = None

    async def listen(self) -> Exited:
        """Take lines until the program has ended and all that it printed has come.

        Raises:
            GuestError: the program could not be started, or the guest went away.
        """
        while self.end is None:
            frames = await self._channel.receive_all()
            began = time.monotonic()
            if not frames:
                raise GuestError("the guest's port was closed")
            lines = [frame for frame in frames if isinstance(frame, Line)]
            for line in lines:
                await self._take(line)
            if lines:
                await self._channel.send(Ack(lines[-1].number))
            for frame in frames:
                self._hear(frame)
            # One that prints without end leaves half of the node's time to others.
            await asyncio.sleep(time.monotonic() - began)
        return self.end

    async def _take(self, line: Line) -> None:
        await self._streams[line.stream].feed(line.text + (b"" if line.goes_on else b"\n"))

    def _hear(self, frame: object) -> None:
        if isinstance(frame, Ready):
            self.ready.set()
        elif isinstance(frame, Exited):
            self.end = frame
        elif isinstance(frame, Failed):
            raise GuestError(f"the program could not be started: {frame.what}")
