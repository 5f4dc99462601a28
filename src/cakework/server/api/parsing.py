"""JSON of strangers, read without holding up anybody else.

What is small is read at once. Reading what is large would keep all other tasks and threads of the
server waiting, so a process by itself does it, bounded in memory, time and in how many values may
come of it; each account has one such process at a time, and all together ``AT_ONCE_MAX``.
"""

import asyncio
import json
import marshal
import sys
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from cakework.domain.ids import AccountId
from cakework.turns import Turns

LARGE_BYTES = 128 * 1024
VALUES_MAX = 250_000
AT_ONCE_MAX = 2
CPU_S = 20
TIMEOUT_S = 60.0
_PROGRAM = Path(__file__).with_name("parse.py")
_PYTHON_BYTES = 256 << 20
_BYTES_PER_BYTE = 14
"""A body as it came, as text of four bytes for each character, that again in its values, and as
it is written."""


class Parser:
    """Reads JSON, with a process for what is large."""

    def __init__(self) -> None:
        self._turns: Turns[AccountId] = Turns(AT_ONCE_MAX)

    async def parsed(self, body: bytes, account: AccountId) -> Any:
        """Return what ``body`` says.

        Raises:
            json.JSONDecodeError: it is no JSON.
            HTTPException: 413, it says too much.
        """
        if len(body) <= LARGE_BYTES:
            return json.loads(body)
        async with self._turns.hold(account):
            return await _parsed_elsewhere(body)


async def _parsed_elsewhere(body: bytes) -> Any:
    memory_bytes = _PYTHON_BYTES + _BYTES_PER_BYTE * len(body)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", _PROGRAM, str(VALUES_MAX), str(memory_bytes), str(CPU_S)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )
    try:
        async with asyncio.timeout(TIMEOUT_S):
            written, _ = await process.communicate(body)
    except TimeoutError as error:
        raise _too_much() from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    match process.returncode:
        case 0:
            return marshal.loads(written)  # noqa: S302
        case 1:
            message, place = marshal.loads(written)  # noqa: S302
            raise json.JSONDecodeError(message, "", place)
        case _:
            raise _too_much()


def _too_much() -> HTTPException:
    return HTTPException(
        413, f"The body has too much in it: at most {VALUES_MAX} values are taken."
    )
