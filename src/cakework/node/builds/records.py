"""What is remembered of builds on disk, so that a node that is killed knows where it was.

    builds/records/<build id>/order.json     the order; there from before it is answered
    builds/records/<build id>/token          says that it has a token, which is in memory alone
    builds/records/<build id>/attempts       how often it was begun, one byte each
    builds/records/<build id>/outcome.json   how it ended, from before that is told
    builds/records/<build id>/told           its end was told

Root's alone, and out of sight of what is built.
"""

import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import TypeAdapter

from cakework.domain.facts import BuildFailed, BuildSucceeded
from cakework.domain.orders import BuildOrder

KEEP_S = 7 * 24 * 3600
"""How long the end of a build is remembered, so that an order given again is not carried out
again; a server repeats orders within minutes."""

Outcome = BuildSucceeded | BuildFailed
_OUTCOME: TypeAdapter[Outcome] = TypeAdapter(Outcome)


class BuildRecord:
    """The record of one build."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.build_id = folder.name

    def order(self) -> BuildOrder:
        """Return its order, without its token."""
        return BuildOrder.model_validate_json((self._folder / "order.json").read_bytes())

    def wants_token(self) -> bool:
        """Say whether it cannot be carried out with what is remembered here."""
        return (self._folder / "token").exists() and self.outcome() is None

    def begin(self) -> int:
        """Note that it is begun; return how often it has been, with this time."""
        file = self._folder / "attempts"
        with file.open("ab") as stream:
            stream.write(b".")
        return file.stat().st_size

    def end(self, outcome: Outcome) -> None:
        """Note how it ended."""
        _write(self._folder / "outcome.json", outcome.model_dump_json().encode())

    def outcome(self) -> Outcome | None:
        """Return how it ended, or None while it has not."""
        file = self._folder / "outcome.json"
        return _OUTCOME.validate_json(file.read_bytes()) if file.exists() else None

    def tell(self) -> None:
        """Note that its end was told; its order is needed no more."""
        (self._folder / "told").touch()
        for name in ("order.json", "token", "attempts"):
            (self._folder / name).unlink(missing_ok=True)

    def told(self) -> bool:
        """Say whether its end was told."""
        return (self._folder / "told").exists()


class BuildRecords:
    """The records of all builds of the node, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder; remove half-made records, and those that are no longer needed."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder.chmod(0o700)
        for half_made in self._folder.glob(".*"):
            shutil.rmtree(half_made)
        self.forget_old()

    def forget_old(self) -> None:
        """Remove the records of builds that ended so long ago that no order is given again."""
        oldest = time.time() - KEEP_S
        for folder in self._whole():
            if folder.stat().st_mtime < oldest and BuildRecord(folder).told():
                shutil.rmtree(folder)

    def add(self, order: BuildOrder, written: bytes | None = None) -> BuildRecord | None:
        """Keep ``order`` but for its token; return its record, or None if it is known already.

        ``written`` is the order as JSON, if there is that already. Blocks.
        """
        folder = self._folder / order.build_id
        if folder.exists():
            return None
        making = self._folder / f".{order.build_id}"
        shutil.rmtree(making, ignore_errors=True)
        making.mkdir(mode=0o700)
        if written is None or order.token:
            written = order.with_token("").model_dump_json().encode()
        _write(making / "order.json", written)
        if order.token:
            (making / "token").touch()
        making.rename(folder)
        _sync(self._folder)
        return BuildRecord(folder)

    def unfinished(self) -> Iterator[BuildRecord]:
        """Yield the builds whose end was not told, oldest first."""
        for folder in sorted(self._whole(), key=lambda folder: folder.stat().st_mtime):
            record = BuildRecord(folder)
            if not record.told():
                yield record

    def _whole(self) -> list[Path]:
        return [entry for entry in self._folder.iterdir() if not entry.name.startswith(".")]


def _write(file: Path, content: bytes) -> None:
    making = file.with_suffix(".making")
    with making.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    making.rename(file)
    _sync(file.parent)


def _sync(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
