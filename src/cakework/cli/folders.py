"""The data folder: who owns what in it, and that one `cakework up` at a time uses it.

<data_dir>/          root          0755
<data_dir>/up.lock   root          held while `cakework up` runs
<data_dir>/node/     root          0700
<data_dir>/server/   server user   0700
<data_dir>/run/      root, server user's group   0750
<data_dir>/run/server/   server user   0700
"""

import fcntl
import os
import pwd
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.settings import Settings


def server_account(settings: Settings) -> pwd.struct_passwd:
    """Return the account the server runs as.

    Raises:
        CommandFailed: There is no such user.
    """
    try:
        return pwd.getpwnam(settings.server_user)
    except KeyError as error:
        raise CommandFailed(
            f"There is no user {settings.server_user!r}: make it with `adduser --system`, "
            "or set CAKEWORK_SERVER_USER to another.",
            ExitCode.USAGE,
            code="invalid_settings",
        ) from error


def prepare_folders(settings: Settings) -> None:
    """Make the data folder's parts with their owners and modes; root only."""
    account = server_account(settings)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        settings.data_dir.chmod(0o755)
        make_folder(settings.node_dir, 0, 0, 0o700)
        make_folder(settings.server_dir, account.pw_uid, account.pw_gid, 0o700)
        make_folder(settings.run_dir, 0, account.pw_gid, 0o750)
        socket_dir = settings.routes_socket.parent
        make_folder(socket_dir, account.pw_uid, account.pw_gid, 0o700)
    except OSError as error:
        raise CommandFailed(f"Cannot prepare {settings.data_dir}: {error}") from error


def make_folder(path: Path, uid: int, gid: int, mode: int) -> None:
    """Make a folder unless it is there, and give it its owner and mode."""
    path.mkdir(exist_ok=True)
    os.chown(path, uid, gid)
    path.chmod(mode)


@contextmanager
def only_one(settings: Settings) -> Generator[None]:
    """Hold the data folder's lock.

    Raises:
        CommandFailed: Another `cakework up` holds it.
    """
    with (settings.data_dir / "up.lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.seek(0)
            raise CommandFailed(
                f"Cakework already runs in {settings.data_dir} (pid {lock.read().strip()}). "
                "Stop that one, or give another --data-dir.",
                code="already_running",
            ) from error
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
