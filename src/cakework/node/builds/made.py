"""What a sandbox made, read by the node: files of the sandbox's own, and none that it links to."""

import contextlib
import os
import stat
from pathlib import Path

from cakework.node.builds.failure import BuildError

BYTES_MAX = 64 * 2**20


def read_made(work: Path, name: str) -> bytes:
    """Return what is in the file ``name`` of ``work/out``.

    Raises:
        BuildError: it is not there, is something else than a file, or is larger than 64 MiB.
    """
    with contextlib.ExitStack() as stack:
        try:
            folder = os.open(work / "out", os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
            stack.callback(os.close, folder)
            file = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
            stack.callback(os.close, file)
        except OSError as error:
            raise BuildError(f"the build left no file {name}") from error
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise BuildError(f"the build left no file {name}")
        content = os.read(file, BYTES_MAX + 1)
        if len(content) > BYTES_MAX:
            raise BuildError(f"the build's file {name} is too large")
        return content
