"""Reads a folder to build from: its Dockerfile, and the files that .dockerignore leaves.

Files travel as text where they are UTF-8 and as base64 where not. The API carries neither
file modes nor empty folders nor symbolic links: a link to a file inside the folder is sent as
that file, any other is left out and named in ``skipped``.
"""

import base64
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from cakework.cli.exits import CommandFailed, ExitCode

if TYPE_CHECKING:
    from pathspec import PathSpec
    from pathspec.pattern import Pattern


@dataclass
class Context:
    """What is sent to be built."""

    dockerfile: str
    files: list[dict[str, str]] = field(default_factory=list[dict[str, str]])
    size_bytes: int = 0
    skipped: list[str] = field(default_factory=list[str])


def read_context(folder: Path, dockerfile: Path | None = None) -> Context:
    """Read what ``folder`` holds; ``dockerfile`` is its ``Dockerfile`` unless given.

    Raises:
        CommandFailed: Something that is needed is not there or cannot be read.
    """
    if not folder.is_dir():
        raise CommandFailed(f"{folder} is not a folder.", ExitCode.USAGE)
    try:
        context = Context(read_dockerfile(dockerfile or folder / "Dockerfile"))
        for path in sorted(wanted_files(folder)):
            add(context, folder, path)
    except OSError as error:
        raise CommandFailed(f"Cannot read the files to build from: {error}") from error
    return context


def read_dockerfile(path: Path) -> str:
    """Return the text of a Dockerfile."""
    try:
        return path.read_text()
    except FileNotFoundError as error:
        raise CommandFailed(
            f"There is no {path}. Write one, or name another with --file.", ExitCode.USAGE
        ) from error
    except UnicodeDecodeError as error:
        raise CommandFailed(f"{path} is not UTF-8 text.", ExitCode.USAGE) from error


def wanted_files(folder: Path) -> Iterator[Path]:
    """Yield every file and link below ``folder`` that its .dockerignore does not name."""
    lines = ignore_lines(folder / ".dockerignore")
    ignored = compile_patterns(lines)
    prune = not any(line.startswith("!") for line in lines)
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in (*names, *links):
            if not ignored.match_file((inside / name).as_posix()):
                yield folder / inside / name
        if prune:
            folders[:] = [f for f in folders if not ignored.match_file((inside / f).as_posix())]


def ignore_lines(path: Path) -> list[str]:
    """Return the patterns of a .dockerignore in gitignore's words, none when it is not there."""
    lines = path.read_text().splitlines() if path.is_file() else []
    return list(filter(None, map(as_gitignore, lines)))


def compile_patterns(lines: list[str]) -> "PathSpec[Pattern]":
    """Return patterns ready to match paths; the last that matches wins."""
    from pathspec import PathSpec

    return PathSpec.from_lines("gitignore", lines)


def as_gitignore(line: str) -> str | None:
    """Return a line of .dockerignore in gitignore's words: the last that matches wins in both,
    but here every pattern starts at the root."""
    if line.startswith("#") or not line.strip():
        return None
    pattern = line.strip()
    negation = "!" if pattern.startswith("!") else ""
    cleaned = PurePosixPath("/") / pattern.removeprefix("!").strip().lstrip("/")
    return None if str(cleaned) == "/" else f"{negation}{cleaned}"


def add(context: Context, folder: Path, path: Path) -> None:
    """Add one file to the context, or its name to what was skipped."""
    relative = path.relative_to(folder)
    if not path.is_file() or not path.resolve().is_relative_to(folder.resolve()):
        context.skipped.append(relative.as_posix())
        return
    content = path.read_bytes()
    context.size_bytes += len(content)
    parent = relative.parent.as_posix()
    context.files.append({"dir": parent, "name": relative.name, **encode(content)})


def encode(content: bytes) -> dict[str, str]:
    """Return the content's fields in the API: text, or base64 with its ``encoding``."""
    try:
        return {"content": content.decode()}
    except UnicodeDecodeError:
        return {"content": base64.b64encode(content).decode(), "encoding": "base64"}
