"""Build orders kept on disk from the moment a build is answered until it has ended.

They are sealed: an order holds a stranger's sources, or the token that they are fetched with.
The folder can be read by its owner alone.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import structlog

from cakework.domain.errors import CakeworkError
from cakework.domain.ids import BuildId
from cakework.domain.orders import BuildOrder
from cakework.server.store.sealing import Sealer

_SUFFIX = ".sealed"
_log = structlog.stdlib.get_logger(__name__)


class Spool:
    """Files named by build id. Every method blocks; call them from a thread."""

    def __init__(self, folder: Path, sealer: Sealer) -> None:
        """Keep orders in ``folder``, which ``open()`` makes, sealed with ``sealer``."""
        self._folder = folder
        self._sealer = sealer

    def open(self) -> None:
        """Make the folder and throw away what was half written when a server died."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for half_made in self._folder.glob("*.part"):
            half_made.unlink()

    def put(self, order: BuildOrder) -> None:
        """Keep an order; it is on the disk when this returns."""
        sealed = self._sealer.seal(order.model_dump_json().encode(), order.build_id)
        path = self._path(BuildId(order.build_id))
        part = path.with_suffix(".part")
        with part.open("wb") as file:
            file.write(sealed)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        self._sync_folder()

    def get(self, build_id: BuildId) -> bytes | None:
        """Return the order of a build, as JSON; None when it is not kept, or cannot be opened any
        more."""
        try:
            return self._sealer.unseal(self._path(build_id).read_bytes(), build_id)
        except FileNotFoundError:
            return None
        except CakeworkError as error:
            _log.error("spool.unreadable", build_id=build_id, detail=error.detail)
            return None

    def remove(self, build_id: BuildId) -> None:
        """Throw an order away, if it is there; of one that stays, the build loop tries it again."""
        try:
            self._path(build_id).unlink(missing_ok=True)
        except OSError:
            _log.exception("spool.not_removed", build_id=build_id)

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
