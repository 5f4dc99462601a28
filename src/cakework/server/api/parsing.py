"""JSON of strangers, read without holding up anybody else.

What is small is read at once. Reading what is large would keep all other tasks and threads of the
server waiting, so a process by itself does it, bounded in memory, time and in how many values may
come of it; each account has one such process at a time, and all together ``AT_ONCE_MAX``. Each is
forked from a small one that stays, since to start one from the server holds that up too: all of its
memory is looked through. So no body meets what another left.
Bodies go to them, and what comes of these back, through memory that both have
(``memfd_create(2)``): so the loop, which serves everybody, has nothing to carry.
"""

import asyncio
import contextlib
import json
import marshal
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.exceptions import HTTPException

from cakework.domain.errors import Unavailable
from cakework.domain.ids import AccountId
from cakework.server.api.parse import ANSWER, FAULT, QUESTION, READ, got, loads, put
from cakework.turns import Turns
from cakework.unbroken import unbroken

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
        self._idle: list[Reader] = []

    async def parsed(self, body: bytes, account: AccountId) -> Any:
        """Return what ``body`` says.

        Raises:
            json.JSONDecodeError: it is no JSON.
            HTTPException: 413, it says too much.
            Unavailable: it could not be read.
        """
        if len(body) <= LARGE_BYTES:
            return loads(body)
        async with self._turns.hold(account), self._reader() as reader:
            status, written = await asked(reader, body)
        if status == READ:
            return marshal.loads(written)  # noqa: S302
        if status == FAULT:
            message, place = marshal.loads(written)  # noqa: S302
            raise json.JSONDecodeError(message, "", place)
        raise _too_much()

    async def close(self) -> None:
        """End the processes."""
        while self._idle:
            await self._idle.pop().end()

    @contextlib.asynccontextmanager
    async def _reader(self) -> AsyncGenerator["Reader"]:
        """Give a process, which stays for another body if it can still be asked."""
        while self._idle and self._idle[-1].process.returncode is not None:
            await self._idle.pop().end()
        reader = self._idle.pop() if self._idle else await begun()
        try:
            yield reader
        except BaseException:
            await reader.end()
            raise
        self._idle.append(reader)


@dataclass(eq=False, slots=True)
class Reader:
    """A process that reads, and the memory that it has with this one: of bodies, and of values."""

    process: Process
    given: int
    told: int

    async def end(self) -> None:
        """End the process, with that which reads a body, and give its memory back."""
        for memory in (self.given, self.told):
            if memory >= 0:
                os.close(memory)
        self.given = self.told = -1
        if self.process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
        await self.process.wait()


async def begun() -> Reader:
    """Start a process that reads."""
    given, told = os.memfd_create("body"), os.memfd_create("value")
    program = (_PROGRAM, str(VALUES_MAX), str(CPU_S), str(given), str(told))
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-I", "-S", *program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
            env={},
            pass_fds=(given, told),
            # A group, to be ended together.
            start_new_session=True,
        )
    except BaseException:
        os.close(given)
        os.close(told)
        raise
    return Reader(process, given, told)


async def asked(reader: Reader, body: bytes) -> tuple[int, bytes]:
    """Return what a process says of a body: ``READ``, ``FAULT`` or ``TOO_MUCH``, and the value.

    Raises:
        HTTPException: 413, it took too long.
        Unavailable: the process is gone, which is not the body's fault: that has one of its own.
    """
    question, answer = reader.process.stdin, reader.process.stdout
    if question is None or answer is None:
        raise TypeError("a process without pipes reads nothing")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            await unbroken(asyncio.to_thread(put, reader.given, body))
            question.write(QUESTION.pack(len(body), _PYTHON_BYTES + _BYTES_PER_BYTE * len(body)))
            status, size = ANSWER.unpack(await answer.readexactly(ANSWER.size))
            return status, await unbroken(asyncio.to_thread(taken, reader, size))
    except TimeoutError as error:
        raise _too_much() from error
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        raise Unavailable("The body could not be read; send it again.") from error


def taken(reader: Reader, size: int) -> bytes:
    """Return what a process told, and leave nothing in the memory that it has."""
    written = got(reader.told, size)
    os.ftruncate(reader.given, 0)
    os.ftruncate(reader.told, 0)
    return written


def _too_much() -> HTTPException:
    return HTTPException(
        413, f"The body has too much in it: at most {VALUES_MAX} values are taken."
    )
