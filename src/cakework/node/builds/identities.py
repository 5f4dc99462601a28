"""The user namespace that builds run in: root there is nobody on the host."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen, run

ROOT_ID = 0x7000_0000
"""The host's id of root inside: above the ranges that systemd-nspawn (to 0x6FFFFFFF) and
/etc/subuid hand out, below 2^31, which some programs take for the end of ids."""

ID_COUNT = 65_536
MOST = "/proc/sys/user/max_user_namespaces"


@contextmanager
def user_namespace() -> Generator[int]:
    """Make a user namespace with ids 0 to 65535 and yield a descriptor that keeps it.

    No other can be made in it. Who has all rights in one of his own reaches what the kernel keeps
    for root: mounts, packet filters, devices of networks. What a Dockerfile runs has nine rights of
    root's, and those that would change this are not among them.

    Raises:
        OSError: this host does not allow it.
    """
    command = ("unshare", "--user", "--", "sh", "-c", "echo; read -r _")
    with Popen(command, stdin=PIPE, stdout=PIPE) as holder:
        if not (holder.stdout and holder.stdout.readline()):
            raise OSError("a user namespace could not be made; is user.max_user_namespaces 0?")
        process = Path("/proc") / str(holder.pid)
        for name in ("uid_map", "gid_map"):
            (process / name).write_text(f"0 {ROOT_ID} {ID_COUNT}")
        _allow_no_more(process / "ns" / "user")
        fd = os.open(process / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _allow_no_more(namespace: Path) -> None:
    """Bound the namespaces in ``namespace`` to none. The kernel shows each user namespace its own
    bound, so it has to be entered."""
    enter = ("nsenter", f"--user={namespace}", "--setuid", "0", "--setgid", "0", "--")
    done = run((*enter, "sh", "-c", f"echo 0 >{MOST}"), stderr=PIPE, text=True, check=False)
    if done.returncode:
        raise OSError(f"{MOST} could not be set for builds: {done.stderr.strip()}")


def give(path: Path) -> None:
    """Give ``path``, not what is below it, to root of the user namespace."""
    os.chown(path, ROOT_ID, ROOT_ID, follow_symlinks=False)
