"""JSON of strangers, read without holding up anybody else.

What is small is read at once. Reading what is large would keep all other tasks and threads of the
server waiting, so a process by itself does it, bounded in memory, time and in how many values may
come of it; each account has one such process at a time, and all together ``AT_ONCE_MAX``. They stay
for the next body, since to start one holds up the server too: all of its memory is looked through.
"""

import asyncio
import contextlib
import json
import marshal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from cakework.domain.ids import AccountId
from cakework.server.api.parse import ANSWER, FAULT, QUESTION, READ
from cakework.turns import Turns

LARGE_BYTES = 128 * 1024
VALUES_MAX = 250_000
AT_ONCE_MAX = 2
CPU_S = 20
TIMEOUT_S = 60.0
ONCE_BYTES = 4 << 20
"""Of a body after which a process ends, so that memory that it keeps of it is given back."""
_PROGRAM = Path(__file__).with_name("parse.py")
_PYTHON_BYTES = 256 << 20
_BYTES_PER_BYTE = 14
"""A body as it came, as text of four bytes for each character, that again in its values, and as
it is written."""


class Parser:
    """Reads JSON, with processes for what is large."""

    def __init__(self) -> None:
        self._turns: Turns[AccountId] = Turns(AT_ONCE_MAX)
        self._idle: list[Process] = []

    async def parsed(self, body: bytes, account: AccountId) -> Any:
        """Return what ``body`` says.

        Raises:
            json.JSONDecodeError: it is no JSON.
            HTTPException: 413, it says too much.
        """
        if len(body) <= LARGE_BYTES:
            return json.loads(body)
        async with self._turns.hold(account), self._process(len(body)) as process:
            status, written = await asked(process, body)
        if status == READ:
            return marshal.loads(written)  # noqa: S302
        if status == FAULT:
            message, place = marshal.loads(written)  # noqa: S302
            raise json.JSONDecodeError(message, "", place)
        raise _too_much()

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await _end(self._idle.pop())

    @contextlib.asynccontextmanager
    async def _process(self, size: int) -> AsyncGenerator[Process]:
        """Give a process, which stays for another body if it can still be asked."""
        while self._idle and self._idle[-1].returncode is not None:
            self._idle.pop()
        process = self._idle.pop() if self._idle else await begun()
        try:
            yield process
        except BaseException:
            await _end(process)
            raise
        if size > ONCE_BYTES:
            await _end(process)
        else:
            self._idle.append(process)


async def begun() -> Process:
    """Start a process that reads."""
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", _PROGRAM, str(VALUES_MAX), str(CPU_S)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        env={},
    )


async def _end(process: Process) -> None:
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    await process.wait()


async def asked(process: Process, body: bytes) -> tuple[int, bytes]:
    """Return what ``process`` says of a body: ``READ``, ``FAULT`` or ``TOO_MUCH``, and the value.

    Raises:
        HTTPException: 413, it came to its end over it.
    """
    question, answer = process.stdin, process.stdout
    if question is None or answer is None:
        raise TypeError("a process without pipes reads nothing")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            question.write(QUESTION.pack(len(body), _PYTHON_BYTES + _BYTES_PER_BYTE * len(body)))
            question.write(body)
            await question.drain()
            status, size = ANSWER.unpack(await answer.readexactly(ANSWER.size))
            return status, await answer.readexactly(size)
    except (TimeoutError, ConnectionError, asyncio.IncompleteReadError) as error:
        raise _too_much() from error


def _too_much() -> HTTPException:
    return HTTPException(
        413, f"The body has too much in it: at most {VALUES_MAX} values are taken."
    )
