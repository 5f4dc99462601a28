"""What is remembered of imports on disk. Passwords are not.

imports/records/<image id>.json     :class:`ImportRecord`; there from before it is answered
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from cakework.domain.orders import ImportOrder, ImportReport

KEEP_S = 7 * 24 * 3600
"""How long an end is remembered, so that an order given again is not carried out again."""


class ImportRecord(BaseModel):
    """One import. ``secret`` says that it cannot be gone on with without a password.

    ``error`` is None when it succeeded. ``told`` says that its end is in the journal.
    """

    image_id: str
    image_uri: str
    account_id: str = ""
    secret: bool
    attempts: int = 0
    ended: bool = False
    error: str | None = None
    told: bool = False

    @property
    def owner(self) -> str:
        """Whose it is, as its order says."""
        return self.order().owner

    def order(self) -> ImportOrder:
        """Return its order, without a password."""
        return ImportOrder(
            image_id=self.image_id, image_uri=self.image_uri, account_id=self.account_id
        )

    def report(self) -> ImportReport:
        """Say where it is."""
        if not self.ended:
            return ImportReport(image_id=self.image_id, state="importing")
        state = "succeeded" if self.error is None else "failed"
        return ImportReport(image_id=self.image_id, state=state)


class ImportRecords:
    """The records of all imports of the node, in ``folder``. Its user alone can read them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def prepare(self) -> None:
        """Make the folder; remove what is half-written, and what is no longer needed."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for half_made in self._folder.glob("*.making"):
            half_made.unlink()
        self.forget_old()

    def forget_old(self) -> None:
        """Remove the records of imports that ended so long ago that no order is given again."""
        oldest = time.time() - KEEP_S
        for file in self._folder.glob("*.json"):
            if file.stat().st_mtime < oldest and self._read(file).told:
                file.unlink()

    def add(self, order: ImportOrder) -> ImportRecord | None:
        """Keep what of ``order`` may be kept; None if its image is known already."""
        if self.get(order.image_id):
            return None
        record = ImportRecord(
            image_id=order.image_id,
            image_uri=order.image_uri,
            account_id=order.account_id,
            secret=bool(order.password),
        )
        self.write(record)
        return record

    def get(self, image_id: str) -> ImportRecord | None:
        """Return the record of an import, or None if there is none."""
        file = self._file(image_id)
        return self._read(file) if file.exists() else None

    def write(self, record: ImportRecord) -> None:
        """Keep ``record``; it is on the disk when this returns."""
        file = self._file(record.image_id)
        making = file.with_suffix(".making")
        with making.open("w") as stream:
            stream.write(record.model_dump_json())
            stream.flush()
            os.fsync(stream.fileno())
        making.rename(file)
        fd = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)

    def unfinished(self) -> Iterator[ImportRecord]:
        """Yield those whose end was not told, oldest first."""
        for file in sorted(self._folder.glob("*.json"), key=lambda file: file.stat().st_mtime):
            record = self._read(file)
            if not record.told:
                yield record

    def _read(self, file: Path) -> ImportRecord:
        return ImportRecord.model_validate_json(file.read_bytes())

    def _file(self, image_id: str) -> Path:
        if not image_id.isalnum():
            raise ValueError(f"{image_id!r} is not the id of an image")
        return self._folder / f"{image_id}.json"
