"""The user namespace that builds run in: root there is nobody on the host."""

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from subprocess import PIPE, Popen

ROOT_ID = 0x7000_0000
"""The host's id of root inside: above the ranges that systemd-nspawn (to 0x6FFFFFFF) and
/etc/subuid hand out, below 2^31, which some programs take for the end of ids."""

ID_COUNT = 65_536


@contextmanager
def user_namespace() -> Generator[int]:
    """Make a user namespace with ids 0 to 65535 and yield a descriptor that keeps it.

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
        fd = os.open(process / "ns" / "user", os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def give(path: Path) -> None:
    """Give ``path``, not what is below it, to root of the user namespace."""
    os.chown(path, ROOT_ID, ROOT_ID, follow_symlinks=False)
