"""Paths inside a build context: which names a stranger may give to files.

A context path is relative, with ``/`` between its parts, and stays below the context's
root whatever is done with it: it has no ``..``, no NUL and no empty name.
"""

from collections.abc import Container, Iterator, Sequence

NAME_BYTES_MAX = 255
PATH_BYTES_MAX = 4096
PARTS_MAX = 128
"""Folders in one another: what npm once made in its worst times was a third of that."""


class PathError(ValueError):
    """A path that a context cannot have; ``str()`` of it says why, for people."""


def directory_path(directory: str) -> str:
    """Return ``directory`` without ``.`` parts and doubled slashes; ``""`` is the root.

    Raises:
        PathError: it is absolute, has a ``..`` or a NUL in it, or is too long.
    """
    if directory.startswith("/"):
        raise PathError("must be relative to the context's root, without a leading slash")
    parts = [part for part in directory.split("/") if part not in ("", ".")]
    if len(parts) > PARTS_MAX:
        raise PathError(f"must not be deeper than {PARTS_MAX} folders")
    for part in parts:
        _check_part(part)
    return _bounded("/".join(parts))


def file_path(directory: str, name: str) -> str:
    """Return the context path of file ``name`` in ``directory``.

    Raises:
        PathError: either would leave the context or is no name of a file.
    """
    parent = directory_path(directory)
    check_name(name)
    return _bounded(f"{parent}/{name}" if parent else name)


def check_name(name: str) -> None:
    """Check that ``name`` is the name of one file.

    Raises:
        PathError: it is empty, ``.``, ``..``, too long, or has a slash or a NUL in it.
    """
    if name in ("", "."):
        raise PathError("must be the name of a file")
    if "/" in name:
        raise PathError("must be a name without slashes; the folder goes into dir")
    _check_part(name)


def checked_path(path: str) -> str:
    """Return ``path`` if it is a context path in its plain form, as :func:`file_path` makes it.

    Raises:
        PathError: it is not.
    """
    directory, _, name = path.rpartition("/")
    if file_path(directory, name) != path:
        raise PathError("is not in its plain form")
    return path


def collisions(paths: Sequence[str]) -> Iterator[tuple[int, str]]:
    """Yield index and fault of each path that another one leaves no place for."""
    files = set(paths)
    seen: set[str] = set()
    in_the_way: dict[str, str | None] = {"": None}
    for index, path in enumerate(paths):
        parents = list(_unknown_parents(path, in_the_way))
        for parent in reversed(parents):
            above = in_the_way[parent.rpartition("/")[0]]
            in_the_way[parent] = parent if parent in files else above
        if path in seen:
            yield index, f"{path} is given twice"
        elif file := in_the_way[path.rpartition("/")[0]]:
            yield index, f"{file} cannot be both a file and a folder"
        seen.add(path)


def _unknown_parents(path: str, known: Container[str]) -> Iterator[str]:
    """Yield the folders above ``path``, from below, up to one that is known."""
    parent = path.rpartition("/")[0]
    while parent not in known:
        yield parent
        parent = parent.rpartition("/")[0]


def _check_part(part: str) -> None:
    if part == "..":
        raise PathError("must not have .. in it")
    if "\0" in part:
        raise PathError("must not have a NUL in it")
    if len(part.encode()) > NAME_BYTES_MAX:
        raise PathError(f"must not have a name of more than {NAME_BYTES_MAX} bytes")


def _bounded(path: str) -> str:
    if len(path.encode()) > PATH_BYTES_MAX:
        raise PathError(f"must not be longer than {PATH_BYTES_MAX} bytes")
    return path
