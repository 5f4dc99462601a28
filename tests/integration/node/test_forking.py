"""A process with threads, forked through what is preloaded into QEMU."""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cakework.node.vms.forking import CREDENTIALS, ForkSocket, NotForked
from cakework.node.vms.processes import Jail, Process, reap_strays
from tests.integration.node.vm_site import ARTIFACTS

pytestmark = pytest.mark.anyio
UID, OTHER_UID = 1_499_997, 1_499_998
PLACE = 200
"""Number of the descriptor through which a process is asked to be forked."""
RIGHTS = (
    "exec EPERM fork EPERM vfork EPERM clone3 ENOSYS kill EPERM tgkill EPERM own tgkill done "
    "ptrace EPERM setuid EPERM setgroups EPERM prlimit EPERM own prlimit done setpriority EPERM "
    "setown EPERM setsig EPERM getfl done fiosetown EPERM shmget EPERM mq_open EPERM "
    "socket EPERM bind EPERM connect EPERM listen EPERM unshare EPERM"
)
ANSWER = """
import os, socket, sys
end = socket.socket(fileno=int(sys.argv[1]))
end.recv(4096)
parts = [(socket.SOL_SOCKET, socket.SCM_CREDENTIALS, bytes.fromhex(sys.argv[2]))]
try:
    end.sendmsg([bytes(4)], parts if sys.argv[2] else [])
except PermissionError:
    end.send(bytes(4))
input()
"""
"""A process that says that it is a fork; if it is told to, that it is another process."""


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("forked") / "forked"
    source = Path(__file__).with_name("forked.c")
    command = ["gcc", "-std=gnu11", "-D_GNU_SOURCE", "-Wall", "-Werror", "-o", made, source]
    subprocess.run(command, check=True)
    made.chmod(0o755)
    return made


class Running:
    """A process that takes commands and answers them."""

    def __init__(self, process: Process, commands: int, answers: int) -> None:
        self.process = process
        self._commands = commands
        self._answers = answers

    async def ask(self, letter: str) -> str:
        os.write(self._commands, letter.encode())
        async with asyncio.timeout(60):
            return (await asyncio.to_thread(os.read, self._answers, 4096)).decode().strip()

    async def end(self) -> None:
        self.process.kill()
        await self.process.wait()
        self.process.close()


@contextlib.contextmanager
def pipes() -> Generator[tuple[int, int, int, int]]:
    """Give both ends of two pipes: to read commands, to write them; to read answers, to write."""
    ends = (*os.pipe(), *os.pipe())
    try:
        yield ends
    finally:
        for end in ends:
            with contextlib.suppress(OSError):
                os.close(end)


def start(
    jail: Jail, stdin: int, stdout: int, fds: tuple[int, ...], output: Path
) -> subprocess.Popen[bytes]:
    with output.open("ab") as log:
        return subprocess.Popen(
            jail.command(["/vm/forked"]), stdin=stdin, stdout=stdout, stderr=log, pass_fds=fds
        )


@asynccontextmanager
async def original(
    program: Path, folder: Path, option: str
) -> AsyncGenerator[tuple[Running, ForkSocket]]:
    """Run the program in the jail, ready to be forked by requests on descriptor PLACE."""
    (folder / "root").mkdir()
    (folder / "vm").mkdir()
    (folder / "vm" / "forked").hardlink_to(program)
    fork_socket = ForkSocket()
    os.dup2(fork_socket.theirs.fileno(), PLACE)
    namespace = os.open("/proc/self/ns/net", os.O_RDONLY)
    with pipes() as (commands_in, commands_out, answers_in, answers_out):
        jail = Jail(
            program=ARTIFACTS.jail,
            root=folder / "root",
            uid=UID,
            namespace_fd=namespace,
            procs=(),
            binds=((folder / "vm", "/vm"),),
            preload=ARTIFACTS.preload,
            fork=(option, str(PLACE)),
        )
        child = start(jail, commands_in, answers_out, (PLACE, namespace), folder / "output")
        running = Running(Process._watch(child.pid, child), commands_out, answers_in)  # pyright: ignore[reportPrivateUsage]
        fork_socket.passed()
        os.close(PLACE)
        try:
            yield running, fork_socket
        finally:
            await running.end()
            fork_socket.close()
            os.close(namespace)


@asynccontextmanager
async def fork_of(
    fork_socket: ForkSocket,
    uid: int | None,
    *,
    forkable: ForkSocket | None = None,
    user: int = UID,
) -> AsyncGenerator[Running]:
    """Have a fork made that takes its commands and gives its answers elsewhere. It becomes the user
    ``uid``, or stays the ``user`` that it is."""
    with pipes() as (commands_in, commands_out, answers_in, answers_out):
        fds = {0: commands_in, 1: answers_out}
        if forkable is not None:
            fds[PLACE] = forkable.theirs.fileno()
        pid = await fork_socket.fork(uid, fds, forkable=forkable is not None)
        running = Running(
            Process.forked(pid, user if uid is None else uid), commands_out, answers_in
        )
        try:
            yield running
        finally:
            await running.end()


async def test_every_thread_goes_on_in_a_fork(program: Path, tmp_path: Path) -> None:
    """Those that count, wait for each other and for input, each with what is its own; new ones too;
    again and again, and in the original as before."""
    expected = "own 1 served 3 created 42 random 1"
    async with original(program, tmp_path, "--fork-users") as (first, fork_socket):
        assert await first.ask("t") == expected
        for _ in range(10):
            async with fork_of(fork_socket, OTHER_UID) as fork:
                assert await fork.ask("t") == expected
                assert await fork.ask("i") == f"pid {fork.process.pid} uid {OTHER_UID}"
                assert await first.ask("t") == expected


async def test_threads_that_come_and_go_do_not_hinder_a_fork(program: Path, tmp_path: Path) -> None:
    """Neither one that is about to make another, with signals blocked, nor one that is ending."""
    async with original(program, tmp_path, "--fork-users") as (first, fork_socket):
        assert await first.ask("c") == "churns 0"
        for _ in range(50):
            async with fork_of(fork_socket, OTHER_UID) as fork:
                assert await fork.ask("t") == "own 1 served 3 created 42 random 1"
        assert await first.ask("t") == "own 1 served 3 created 42 random 1"


async def test_memory_goes_along_and_is_not_shared(program: Path, tmp_path: Path) -> None:
    """Also such as the program wanted to keep out of forks: that is how QEMU has its guest's."""
    async with original(program, tmp_path, "--fork-users") as (first, fork_socket):
        async with fork_of(fork_socket, OTHER_UID) as fork:
            assert await fork.ask("w") == "was o"
            assert await fork.ask("w") == "was x"
        assert await first.ask("w") == "was o"


async def test_a_fork_may_do_nothing_to_others(program: Path, tmp_path: Path) -> None:
    """It runs no program, forks nothing, signals nobody, and stays who it is."""
    async with (
        original(program, tmp_path, "--fork-users") as (_, fork_socket),
        fork_of(fork_socket, OTHER_UID) as fork,
    ):
        assert await fork.ask("r") == RIGHTS


async def test_without_the_right_to_it_no_fork_becomes_another(
    program: Path, tmp_path: Path
) -> None:
    """Asked to, it ends and says so; one that stays who it is goes on. The original may no more."""
    async with original(program, tmp_path, "--fork") as (first, fork_socket):
        with pytest.raises(NotForked, match="not permitted"):
            await fork_socket.fork(OTHER_UID, {}, forkable=False)
        async with fork_of(fork_socket, None) as fork:
            assert await fork.ask("i") == f"pid {fork.process.pid} uid {UID}"
            assert await fork.ask("r") == RIGHTS
        assert "could not become another user" in (tmp_path / "output").read_text()
        said = await first.ask("r")
        assert said.startswith("exec EPERM fork EPERM vfork EPERM clone3 ENOSYS kill EPERM")
        assert "setuid EPERM" in said


async def test_only_a_fork_that_may_is_forked(program: Path, tmp_path: Path) -> None:
    """Given a socket for it, a fork is forked in turn; without one nobody listens."""
    async with original(program, tmp_path, "--fork-users") as (_, fork_socket):
        second = ForkSocket()
        async with fork_of(fork_socket, OTHER_UID, forkable=second) as fork:
            second.passed()
            assert await fork.ask("t") == "own 1 served 3 created 42 random 1"
            async with fork_of(second, None, user=OTHER_UID) as third:
                assert await third.ask("t") == "own 1 served 3 created 42 random 1"
                assert await third.ask("i") == f"pid {third.process.pid} uid {OTHER_UID}"
        with pytest.raises(NotForked, match="could not be forked"):
            await second.fork(None, {}, forkable=False)
        second.close()


async def test_forks_of_forks_of_forks_are_forked(program: Path, tmp_path: Path) -> None:
    """Each has the filters of all before it, and none of them lets it signal another."""
    expected = "own 1 served 3 created 42 random 1"
    async with contextlib.AsyncExitStack() as stack:
        _, asked = await stack.enter_async_context(original(program, tmp_path, "--fork-users"))
        uid: int | None = OTHER_UID
        for _ in range(4):
            own = ForkSocket()
            stack.callback(own.close)
            fork = await stack.enter_async_context(
                fork_of(asked, uid, forkable=own, user=OTHER_UID)
            )
            own.passed()
            assert await fork.ask("t") == expected
            asked, uid = own, None
            assert await fork.ask("c") == "churns 0"
        last = await stack.enter_async_context(fork_of(asked, None, user=OTHER_UID))
        assert await last.ask("t") == expected
        assert await last.ask("r") == RIGHTS.replace("own tgkill done", "own tgkill EPERM")


def answering(fork_socket: ForkSocket, credentials: bytes) -> subprocess.Popen[bytes]:
    theirs = fork_socket.theirs.fileno()
    command = [sys.executable, "-c", ANSWER, str(theirs), credentials.hex()]
    return subprocess.Popen(command, pass_fds=[theirs], stdin=subprocess.PIPE, user=UID)


@pytest.mark.parametrize("lies", [False, True])
async def test_a_fork_is_who_the_kernel_says_it_is(lies: bool) -> None:
    """An answer in another's name is its sender's, and one that is no child of the node's and no
    process of the user's is not taken for a fork."""
    fork_socket = ForkSocket()
    with answering(fork_socket, CREDENTIALS.pack(os.getpid(), 0, 0) if lies else b"") as liar:
        pid = await fork_socket.fork(None, {}, forkable=False)
        assert pid == liar.pid
        with pytest.raises(ProcessLookupError, match=f"no fork of user {OTHER_UID}"):
            Process.forked(pid, OTHER_UID)
        process = Process.forked(pid, UID)
        process.kill()
        await process.wait()
        process.close()
    fork_socket.close()
    with pytest.raises(ProcessLookupError, match="no fork"):
        Process.forked(os.getpid(), os.getuid())


def test_children_that_nobody_asked_for_are_taken_in() -> None:
    """Those of a user that have ended; others are left to whoever watches them."""
    with (
        subprocess.Popen(["true"], user=UID) as stray,
        subprocess.Popen(["true"], user=OTHER_UID) as other,
        subprocess.Popen(["sleep", "60"], user=UID) as runs,
    ):
        for child in (stray, other):
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        reap_strays(UID)
        assert not Path(f"/proc/{stray.pid}").exists()
        assert Path(f"/proc/{other.pid}").exists()
        assert Path(f"/proc/{runs.pid}").exists()
        runs.kill()
