"""Asking a QEMU to be forked as it is; the other side is ``jail/zygote.c``."""

import asyncio
import ctypes
import os
import select
import socket
import struct
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from cakework.domain.errors import Unavailable
from cakework.node.listing import entries, if_there

Forkable = Literal["no", "itself", "as others"]
"""Whether a QEMU can be forked. Forks ``as others`` each become a user of their own, for which it
has to keep a right that no stranger's program may come near."""

REQUEST = struct.Struct("=III64i")
MOST_PLACES = 64
ANSWER = struct.Struct("=i")
CREDENTIALS = struct.Struct("=iII")
"""Linux's ``struct ucred``: process id, user and group of who sent a message."""
ANSWER_TIMEOUT_S = 5.0
SOCKETS_AT_REST = 3
"""Those on which monitor and guest listen, and the one for requests to be forked."""


SIGSET_BYTES = 128
"""Of the C library's ``sigset_t``."""
_libc = ctypes.CDLL(None, use_errno=True)


class NotForked(Unavailable):
    """A QEMU was asked to be forked and was not: it is of no more use for that."""


class ForkSocket:
    """The two ends of the socket through which a QEMU is asked; it inherits ``theirs``."""

    def __init__(self) -> None:
        self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours.setblocking(False)
        self._ours.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)

    def passed(self) -> None:
        """Close the node's copy of what QEMU has inherited."""
        self.theirs.close()

    async def fork(self, uid: int | None, fds: Mapping[int, int], *, forkable: bool) -> int:
        """Return the process id of a fork.

        It is the kernel's word, so that a QEMU which its guest has taken over can name no process
        but those that have its end of this socket.

        In it, each descriptor numbered by a key of ``fds`` is replaced by the one of this process
        that is the value. It becomes the user ``uid``, if one is given.

        Raises:
            NotForked: the QEMU is gone or did not answer.
        """
        places = (*fds, *[0] * (MOST_PLACES - len(fds)))
        request = REQUEST.pack(uid or 0, forkable, len(fds), *places)
        try:
            socket.send_fds(self._ours, [request], list(fds.values()))
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                said, pid = await self._answer()
        except TimeoutError as error:
            self.close()
            raise NotForked(f"QEMU was not forked in {ANSWER_TIMEOUT_S:g} s") from error
        except OSError as error:
            raise NotForked(f"QEMU could not be forked: {error}") from error
        if len(said) != ANSWER.size:
            raise NotForked("the QEMU to be forked is gone")
        (error,) = ANSWER.unpack(said)
        if error:
            raise NotForked(f"QEMU could not be forked: {os.strerror(abs(error))}")
        return pid

    async def _answer(self) -> tuple[bytes, int]:
        """Return the next message, and the id of the process that sent it."""
        loop = asyncio.get_running_loop()
        there = asyncio.Event()
        loop.add_reader(self._ours, there.set)
        try:
            await there.wait()
        finally:
            loop.remove_reader(self._ours)
        space = socket.CMSG_SPACE(CREDENTIALS.size)
        said, more, _, _ = self._ours.recvmsg(ANSWER.size, space)
        for level, kind, data in more:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_CREDENTIALS):
                return said, CREDENTIALS.unpack(data)[0]
        return b"", 0

    def close(self) -> None:
        """Close both ends, as far as they are open; QEMU will not be forked any more."""
        self._ours.close()
        self.theirs.close()


@dataclass(frozen=True, slots=True)
class Places:
    """Descriptors of a QEMU that are its alone, by number.

    ``scratch`` is its writable disk, ``events`` those by which its threads wake each other.
    ``polls`` are instances of epoll: who has one of another's decides what that one is told of, and
    with which pointer. ``signals`` are those in which signals are read, with which ones as a mask:
    who has one changes that for all.
    """

    scratch: int
    events: tuple[int, ...]
    polls: tuple[int, ...] = ()
    signals: tuple[tuple[int, int], ...] = ()

    @contextmanager
    def own(self) -> Generator[dict[int, int]]:
        """Make what a fork has in the places of events, polls and signals; to be inherited."""
        made: dict[int, int] = {}
        try:
            for place in self.events:
                # One that has happened: whoever it wakes finds that there is nothing to do.
                made[place] = os.eventfd(1, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            for place in self.polls:
                with select.epoll() as poll:
                    made[place] = os.dup(poll.fileno())
            for place, mask in self.signals:
                made[place] = _signal_fd(mask)
            yield made
        finally:
            for fd in made.values():
                os.close(fd)


def find_places(pid: int, scratch: Path) -> Places | None:
    """Return what process ``pid`` has of its own; None while somebody is connected to it.

    Raises:
        OSError: the process is gone, has not got the file ``scratch`` open, or waits for something
            by epoll, which a fork would not do any more.
    """
    names: dict[int, str] = {}
    disk = None
    for path in entries(Path(f"/proc/{pid}/fd")):
        with if_there():
            names[int(path.name)] = str(path.readlink())
            if path.samefile(scratch):
                disk = int(path.name)
    if disk is None:
        raise OSError(f"process {pid} has not got {scratch} open")
    if sum(name.startswith("socket:") for name in names.values()) > SOCKETS_AT_REST:
        return None
    events, polls, signals = (
        tuple(number for number, name in names.items() if name == f"anon_inode:[{kind}]")
        for kind in ("eventfd", "eventpoll", "signalfd")
    )
    masks = tuple((number, int(_told(pid, number, "sigmask")[0], 16)) for number in signals)
    if any(_told(pid, number, "tfd") for number in polls):
        raise OSError(f"process {pid} waits by epoll")
    return Places(disk, events, polls, masks)


def _told(pid: int, number: int, key: str) -> list[str]:
    """Return what /proc says of a descriptor under ``key``: a line each."""
    text = Path(f"/proc/{pid}/fdinfo/{number}").read_text()
    return [line.split()[1] for line in text.splitlines() if line.startswith(f"{key}:")]


def _signal_fd(mask: int) -> int:
    """Make a descriptor in which the signals of ``mask`` are read: bit 0 is signal 1."""
    signals = mask.to_bytes(SIGSET_BYTES, "little")
    fd = _libc.signalfd(-1, signals, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return fd
