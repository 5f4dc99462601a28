"""A build's context: the files of an order, written where buildah reads them.

A repository is fetched instead: see :mod:`cakework.node.builds.clone`.

The folder is new and nobody else can write in it yet, names are checked before anything is
made, and every file is created, never opened: nothing can lead out of it.
"""

import base64
import binascii
import os
from pathlib import Path

from cakework.domain.contexts import PathError, checked_path, collisions
from cakework.domain.orders import BuildOrder, ContextFile, FilesSource
from cakework.node.builds.failure import BuildError
from cakework.node.builds.identities import give

MTIME_S = 315_619_200
"""1980-01-02, the same for every file, so that equal contexts hit the layer cache; zip files
know no time before 1980."""


def write_recipe(order: BuildOrder, work: Path) -> None:
    """Write the order's own files to ``work``: Dockerfile and, if it has one, dockerignore.

    They lie beside the context, so that they win over files of the same names. Nothing may
    have run in ``work`` yet.
    """
    (work / "Dockerfile").write_text(order.dockerfile)
    if order.dockerignore is not None:
        (work / "dockerignore").write_text(order.dockerignore)


def write_files(source: FilesSource, work: Path, max_bytes: int) -> None:
    """Write the files of ``source`` to ``work/context``.

    Raises:
        BuildError: a path would leave the context, content is not base64, or it is too large.
    """
    context = work / "context"
    context.mkdir()
    _write_files(source.files, context, max_bytes)
    for path in sorted(context.rglob("*"), reverse=True):
        give(path)
        os.utime(path, (MTIME_S, MTIME_S), follow_symlinks=False)
    give(context)
    os.utime(context, (MTIME_S, MTIME_S))


def _write_files(files: list[ContextFile], context: Path, max_bytes: int) -> None:
    for _, fault in collisions([file.path for file in files]):
        raise BuildError(f"the context cannot be written: {fault}")
    total = 0
    for file in files:
        content = _content(file)
        total += len(content)
        if total > max_bytes:
            raise BuildError(f"the context is larger than {max_bytes // 2**20} MiB")
        target = context / _checked(file.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        _create(target, content)


def _checked(path: str) -> str:
    try:
        return checked_path(path)
    except PathError as error:
        raise BuildError(f"the context cannot have the path {path!r}: {error}") from error


def _content(file: ContextFile) -> bytes:
    try:
        return base64.b64decode(file.content_base64, validate=True)
    except binascii.Error as error:
        raise BuildError(f"the content of {file.path!r} is not base64") from error


def _create(path: Path, content: bytes) -> None:
    # The API carries no modes: what begins like a script is made one that can be run.
    mode = 0o755 if content.startswith(b"#!") else 0o644
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
    with os.fdopen(fd, "wb") as stream:
        stream.write(content)
        os.fchmod(stream.fileno(), mode)
