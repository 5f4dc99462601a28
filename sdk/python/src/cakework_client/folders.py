"""A folder to build from: its Dockerfile, and the files that .dockerignore leaves.

Files travel as text where they are UTF-8 and as base64 where not. The API carries neither
file modes nor empty folders nor symbolic links: a link to a file inside the folder is sent as
that file, any other is left out and named in ``skipped``.
"""

import base64
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NotRequired, TypedDict

from cakework_client.dockerignore import Dockerignore
from cakework_client.errors import FolderError
from cakework_client.models import GithubSource

OWN_FOLDER = ".cakework"
"""What the command line keeps of a project, at its root. It is never sent."""


LEFT_OUT = frozenset({".git", ".venv", "node_modules", "__pycache__"})
"""Folders that no code is sent with: dependencies are installed anew."""


class File(TypedDict):
    """A file as the API has it: ``dir`` is ``.`` for the root; ``encoding`` may be ``base64``."""

    dir: str
    name: str
    content: str
    encoding: NotRequired[str]


Files = Mapping[str, str | bytes] | Sequence[File]
"""Files of a build: ``{"src/app.py": "…"}``, or a list as the API has it."""


@dataclass(slots=True)
class Folder:
    """What is sent of a folder, and the names of what cannot be."""

    dockerfile: str
    files: list[File] = field(default_factory=list[File])
    size_bytes: int = 0
    skipped: list[str] = field(default_factory=list[str])

    @classmethod
    def read(cls, path: Path, dockerfile: Path | None = None) -> "Folder":
        """Read what a folder holds; ``dockerfile`` is its ``Dockerfile`` unless given.

        Raises:
            FolderError: Something that is needed is not there or cannot be read.
        """
        if not path.is_dir():
            raise FolderError(f"{path} is not a folder.")
        try:
            folder = cls(read_dockerfile(dockerfile or path / "Dockerfile"))
            for each in sorted(wanted_files(path)):
                folder.add(path, each)
        except OSError as error:
            raise FolderError(f"Cannot read the files to build from: {error}") from error
        return folder

    @classmethod
    def of_code(cls, path: Path) -> "Folder":
        """Read what a folder of code holds, which needs no Dockerfile; its .dockerignore counts.

        Raises:
            FolderError: It is no folder, or cannot be read.
        """
        if not path.is_dir():
            raise FolderError(f"{path} is not a folder.")
        folder = cls("")
        try:
            for each in sorted(wanted_files(path)):
                if not LEFT_OUT & set(each.relative_to(path).parts):
                    folder.add(path, each)
        except OSError as error:
            raise FolderError(f"Cannot read the code: {error}") from error
        return folder

    def add(self, root: Path, path: Path) -> None:
        """Add one file below ``root``, or its name to what was skipped."""
        relative = path.relative_to(root).as_posix()
        if not path.is_file() or not path.resolve().is_relative_to(root.resolve()):
            self.skipped.append(relative)
            return
        content = path.read_bytes()
        self.size_bytes += len(content)
        self.files.append(as_file(relative, content))


class Source(TypedDict, total=False):
    """Code of a function: one of these. ``draft``: what its editor saved; ``version``: a version's
    again, with today's dependencies."""

    files: Files
    github: GithubSource
    draft: bool
    version: int


def as_source(source: Source) -> dict[str, object]:
    """Return code as the API has it."""
    told: dict[str, object] = {**source}
    if "files" in source:
        told["files"] = as_files(source["files"])
    return told


def as_files(files: Files) -> list[File]:
    """Return files as the API has them."""
    if isinstance(files, Mapping):
        return [as_file(path, content) for path, content in files.items()]
    return list(files)


def as_file(path: str, content: str | bytes) -> File:
    """Return a file as the API has it: as text where that is possible, else as base64."""
    folder, _, name = path.rpartition("/")
    file = File(dir=folder or ".", name=name, content="")
    if isinstance(content, str):
        return {**file, "content": content}
    try:
        return {**file, "content": content.decode()}
    except UnicodeDecodeError:
        return {**file, "content": base64.b64encode(content).decode(), "encoding": "base64"}


def read_dockerfile(path: Path) -> str:
    """Return the text of a Dockerfile."""
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise FolderError(f"There is no {path}. Write one, or name another.") from error
    except UnicodeDecodeError as error:
        raise FolderError(f"{path} is not UTF-8 text.") from error


def wanted_files(folder: Path) -> Iterator[Path]:
    """Yield every file and link below ``folder`` that its .dockerignore does not name."""
    ignore = read_dockerignore(folder / ".dockerignore")
    for root, folders, names in os.walk(folder):
        inside = Path(root).relative_to(folder)
        if inside == Path() and OWN_FOLDER in folders:
            folders.remove(OWN_FOLDER)
        links = [name for name in folders if (Path(root) / name).is_symlink()]
        for name in (*names, *links):
            if not ignore.ignores((inside / name).as_posix()):
                yield folder / inside / name
        if not ignore.takes_back:
            folders[:] = [f for f in folders if not ignore.ignores((inside / f).as_posix())]


def read_dockerignore(path: Path) -> Dockerignore:
    """Return what a .dockerignore says: nothing when it is not there."""
    try:
        return Dockerignore(path.read_text(encoding="utf-8") if path.is_file() else "")
    except UnicodeDecodeError as error:
        raise FolderError(f"{path} is not UTF-8 text.") from error
