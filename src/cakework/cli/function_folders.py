"""The folder of a function: which of its files are its code."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.manifest import FILE
from cakework_client import FolderError
from cakework_client.folders import File, as_file, read_dockerignore

IGNORE = ".dockerignore"
LEFT_OUT = re.compile(
    r"\.git|\.hg|\.svn|\.cakework|\.dockerignore|\.gitignore|\.venv|venv|node_modules"
    r"|__pycache__|.*\.pyc|\.pytest_cache|\.mypy_cache|\.ruff_cache|\.DS_Store|\.env(\..*)?"
)
"""Files and folders that are never code, wherever they are."""
FILES_MAX = 1_000
BYTES_MAX = 10 << 20
"""What the server takes of code."""


def read_code(folder: Path) -> list[File]:
    """Return the files of a function's code: all but ``LEFT_OUT``, ``cakework.toml``, and what the
    folder's .dockerignore names.

    Raises:
        CommandFailed: There are none, or too many, or one cannot be read.
    """
    files: list[File] = []
    size = 0
    try:
        for path in sorted(code_files(folder)):
            content = path.read_bytes()
            size += len(content)
            files.append(as_file(path.relative_to(folder).as_posix(), content))
            if len(files) > FILES_MAX or size > BYTES_MAX:
                raise _refusal(
                    f"{folder} has more than {FILES_MAX} files or {BYTES_MAX >> 20} MiB of code. "
                    f"Name what is none in {IGNORE}, or install it as a dependency."
                )
    except OSError as error:
        raise _refusal(f"Cannot read the code: {error}") from error
    if not files:
        raise _refusal(f"{folder} has no code beside its {FILE}.")
    return files


def code_files(folder: Path) -> Iterator[Path]:
    """Yield the files of the code. Links that lead out of the folder are none."""
    try:
        ignore = read_dockerignore(folder / IGNORE)
    except FolderError as error:
        raise _refusal(str(error)) from error
    inside_of = folder.resolve()
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        folders[:] = [name for name in folders if not LEFT_OUT.fullmatch(name)]
        for name in names:
            path = inside / name
            if LEFT_OUT.fullmatch(name) or path == Path(FILE) or ignore.ignores(path.as_posix()):
                continue
            whole = folder / path
            if whole.is_file() and whole.resolve().is_relative_to(inside_of):
                yield whole


def seen(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what tells whether the code, or its ``cakework.toml``, has changed."""
    found: dict[str, tuple[int, int]] = {}
    for path in (*code_files(folder), folder / FILE):
        try:
            status = path.stat()
        except FileNotFoundError:
            continue
        found[str(path)] = (status.st_mtime_ns, status.st_size)
    return found


def _refusal(detail: str) -> CommandFailed:
    return CommandFailed(detail, ExitCode.USAGE, code="unusable_folder")
