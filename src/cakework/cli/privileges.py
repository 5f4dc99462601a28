"""Runs a program as the server's user, who gets no capability and cannot get one.

That user must reach the program's code and its data. Where a folder on the way is closed to
it (a checkout in /root), the program gets a mount namespace of its own in which that folder
holds nothing but what the program needs: see :mod:`cakework.cli.reveal`.
"""

import grp
import os
import pwd
import stat
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import cakework
from cakework.cli.folders import server_account
from cakework.settings import DEFAULT_CONFIG, Settings


def as_server_user(argv: Sequence[str], settings: Settings) -> list[str]:
    """Return the command line that runs ``argv`` as the server's user; itself unless root."""
    if os.geteuid() != 0:
        return list(argv)
    account = server_account(settings)
    hidden = hidden_paths(needed_paths(settings), account)
    reveal: list[str] = []
    if hidden:
        unshare = ["unshare", "--mount", "--propagation", "private", "--"]
        pairs = [f"{cover}:{path}" for path, cover in hidden.items()]
        reveal = [*unshare, sys.executable, "-m", "cakework.cli.reveal", *pairs, "--"]
    return [*reveal, *drop_to(account), *argv]


def drop_to(account: pwd.struct_passwd) -> list[str]:
    """Return the command that becomes an account for good and dies with its parent."""
    return [
        "setpriv",
        f"--reuid={account.pw_uid}",
        f"--regid={account.pw_gid}",
        "--init-groups",
        "--inh-caps=-all",
        "--bounding-set=-all",
        "--no-new-privs",
        "--pdeathsig=TERM",
        "--",
        "env",
        f"HOME={account.pw_dir}",
    ]


def needed_paths(settings: Settings) -> list[Path]:
    """Return what the server must be able to read or write."""
    config = Path(os.environ.get("CAKEWORK_CONFIG", DEFAULT_CONFIG))
    paths = [
        Path(cakework.__file__).resolve().parent.parent,
        Path(sys.prefix).resolve(),
        Path(sys.base_prefix).resolve(),
        settings.server_dir.resolve(),
        settings.run_dir.resolve(),
        config.resolve(),
    ]
    return [path for path in dict.fromkeys(paths) if path.exists()]


def hidden_paths(paths: Iterable[Path], account: pwd.struct_passwd) -> dict[Path, Path]:
    """Return the paths an account cannot reach, each with the topmost folder that is closed."""
    groups = {account.pw_gid, *(g.gr_gid for g in grp.getgrall() if account.pw_name in g.gr_mem)}
    hidden: dict[Path, Path] = {}
    for path in paths:
        for folder in reversed(path.parents):
            if not may_enter(folder.stat(), account.pw_uid, groups):
                hidden[path] = folder
                break
    return hidden


def may_enter(folder: os.stat_result, uid: int, groups: set[int]) -> bool:
    """Say whether a folder's mode lets a user pass through it."""
    if folder.st_uid == uid:
        return bool(folder.st_mode & stat.S_IXUSR)
    if folder.st_gid in groups:
        return bool(folder.st_mode & stat.S_IXGRP)
    return bool(folder.st_mode & stat.S_IXOTH)
