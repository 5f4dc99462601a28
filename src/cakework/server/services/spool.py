"""Build orders kept on disk from the moment a build is answered until it has ended.

The folder can be read by its owner alone: an order holds a stranger's sources.
"""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cakework.domain.ids import BuildId
from cakework.domain.orders import BuildOrder

_SUFFIX = ".json"


class Spool:
    """Files named by build id. Every method blocks; call them from a thread."""

    def __init__(self, folder: Path) -> None:
        """Keep orders in ``folder``; ``open()`` makes it."""
        self._folder = folder

    def open(self) -> None:
        """Make the folder and throw away what was half written when a server died."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for half_made in self._folder.glob("*.part"):
            half_made.unlink()

    def put(self, order: BuildOrder) -> None:
        """Keep an order; it is on the disk when this returns."""
        path = self._path(BuildId(order.build_id))
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(order.model_dump_json().encode())
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        self._sync_folder()

    def get(self, build_id: BuildId) -> BuildOrder | None:
        """Return the order of a build; None when it is not kept."""
        try:
            return BuildOrder.model_validate_json(self._path(build_id).read_bytes())
        except FileNotFoundError:
            return None

    def remove(self, build_id: BuildId) -> None:
        """Throw an order away, if it is there."""
        with suppress(FileNotFoundError):
            self._path(build_id).unlink()

    def kept(self) -> Iterator[BuildId]:
        """Yield the builds whose orders are kept."""
        for path in self._folder.glob(f"*{_SUFFIX}"):
            yield BuildId(path.stem)

    def _path(self, build_id: BuildId) -> Path:
        return self._folder / f"{build_id}{_SUFFIX}"

    def _sync_folder(self) -> None:
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
