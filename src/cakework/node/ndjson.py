"""Files of JSON lines: written whole, read as far as they are whole."""

import asyncio
import json
import os
from typing import Any


def write_all(fd: int, data: bytes, at: int) -> int:
    """Write ``data`` at offset ``at`` of ``fd``, all of it or nothing; return its length.

    Raises:
        OSError: it could not be written; the file ends at ``at``.
    """
    view, behind = memoryview(data), at
    try:
        while view:
            written = os.pwrite(fd, view, behind)
            view, behind = view[written:], behind + written
    except BaseException:
        os.ftruncate(fd, at)
        raise
    return len(data)


def parsed(line: bytes) -> dict[str, Any] | None:
    """Return what a line holds; None when its end, or what it was to hold, is not there."""
    try:
        return json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None


async def set_within(event: asyncio.Event, timeout_s: float) -> bool:
    """Wait for ``event``; says whether it was set in time."""
    try:
        await asyncio.wait_for(event.wait(), timeout_s)
    except TimeoutError:
        return False
    return True
