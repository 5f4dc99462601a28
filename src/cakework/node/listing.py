"""Folders that others change while they are looked at, such as buildah's storage and /proc.

What is gone by the time it is looked at counts as not there, and hides nothing of what is. Path's
own walks raise FileNotFoundError then.
"""

import contextlib
import errno
import os
from collections.abc import Generator
from pathlib import Path

GONE = (errno.ENOENT, errno.ENOTDIR, errno.ESRCH, errno.ENODEV)
"""What the kernel says of a file that is gone, of a process and of a control group."""


@contextlib.contextmanager
def if_there() -> Generator[None]:
    """Within, look at one thing: if it is gone, what is within ends, and nothing is raised."""
    try:
        yield
    except OSError as error:
        if error.errno not in GONE:
            raise


def entries(folder: Path) -> list[Path]:
    """Return what is in ``folder``; nothing if it is gone."""
    with if_there():
        return list(folder.iterdir())
    return []


def folders_below(folder: Path) -> list[Path]:
    """Return ``folder`` and all folders below it, each before those in it; no links."""
    found: list[Path] = []
    left = [folder]
    while left:
        at = left.pop()
        with if_there(), os.scandir(at) as inside:
            found.append(at)
            left += [Path(entry.path) for entry in inside if entry.is_dir(follow_symlinks=False)]
    return found


def text_of(file: Path) -> str:
    """Return what ``file`` holds; nothing if it is gone."""
    with if_there():
        return file.read_text()
    return ""
