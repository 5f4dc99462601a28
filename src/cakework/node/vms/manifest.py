"""Manifests: what a snapshot is and what it needs, signed by the node that made it.

``manifest.json`` is a line of JSON and a line with its HMAC-SHA256, by a key that only this
node has. Nothing is restored whose manifest does not say exactly what is wanted and what is
there: QEMU loads a state without asking where it came from.
"""

import hashlib
import hmac
import json
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from cakework.domain.vms import Shape

FORMAT = 1
NAME = "manifest.json"
KEY_BYTES = 32

Kind = Literal["ready", "kept"]


class Needs(BaseModel):
    """What a snapshot can be restored with, and nothing else.

    ``software`` are kernel, guest and QEMU; ``template`` what its machine came from in the
    first place. ``environment`` tells environments apart without telling what is in them. The
    stamps are sizes and times of files; that of the volume is empty for none.
    """

    model_config = ConfigDict(frozen=True)

    software: str
    arguments: tuple[str, ...]
    template: str
    processor: str
    image_id: str
    image: str
    shape: Shape
    port: int | None
    environment: str
    volume_gb: int
    volume: str


class Stamps(BaseModel):
    """What tells a snapshot's files from others: sizes and times, and what is in the state."""

    model_config = ConfigDict(frozen=True)

    state: str
    ram: str
    scratch: str

    @classmethod
    def of(cls, folder: Path) -> "Stamps":
        """Return those of the files in ``folder``. Raises FileNotFoundError."""
        state = hashlib.sha256((folder / "state").read_bytes()).hexdigest()
        return cls(state=state, ram=stamp(folder / "ram"), scratch=stamp(folder / "scratch"))


class Manifest(BaseModel):
    """What lies in a snapshot's folder. ``lines`` is how many lines its program has printed,
    ``account`` whose VM it is, empty where an earlier version made it; ``snapshot_id`` the order's
    that had it taken of a VM as it ran."""

    model_config = ConfigDict(frozen=True)

    format: int = FORMAT
    kind: Kind
    vm_id: str
    account: str = ""
    needs: Needs
    files: Stamps
    lines: int
    size_bytes: int
    snapshot_id: str = ""


class Mismatch(Exception):
    """A snapshot that must not be restored; the text says what differs."""


class Seal:
    """Signs manifests, and checks them, with a key in a file of the node's."""

    def __init__(self, file: Path) -> None:
        self._key = _read_key(file)

    def write(self, folder: Path, manifest: Manifest) -> None:
        """Write ``manifest`` into ``folder``, durably."""
        line = manifest.model_dump_json().encode()
        with (folder / NAME).open("wb") as file:
            file.write(line + b"\n" + self.sign(line).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def read(self, folder: Path, kind: Kind, vm_id: str, needs: Needs) -> Manifest:
        """Return the manifest of the snapshot in ``folder``, if that is what it must be.

        Raises:
            Mismatch: it is not, or its files are not those it was made with.
            FileNotFoundError: there is no snapshot, or not all of it.
        """
        manifest = self.manifest(folder)
        wanted: dict[str, object] = {"format": FORMAT, "kind": kind, "vm_id": vm_id}
        differing = [name for name, value in wanted.items() if getattr(manifest, name) != value]
        differing += _differing(manifest.needs, needs)
        differing += _differing(manifest.files, Stamps.of(folder))
        if differing:
            raise Mismatch(f"it differs in {', '.join(differing)}")
        return manifest

    def glance(self, folder: Path) -> Manifest | None:
        """Return the manifest in ``folder``, whatever it says; None if there is none of ours."""
        try:
            return self.manifest(folder)
        except (FileNotFoundError, Mismatch):
            return None

    def sign(self, content: bytes) -> str:
        """Return the HMAC of ``content``."""
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def digest(self, values: Mapping[str, str]) -> str:
        """Return what tells ``values`` from others, and says nothing about them without the key."""
        return self.sign(json.dumps(values, sort_keys=True).encode())

    def manifest(self, folder: Path) -> Manifest:
        """Return what this node wrote into ``folder``, whether it fits or not. Raises as read."""
        line, _, rest = (folder / NAME).read_bytes().partition(b"\n")
        if not hmac.compare_digest(rest.strip(), self.sign(line).encode()):
            raise Mismatch("its signature is not this node's")
        try:
            return Manifest.model_validate_json(line)
        except ValidationError as error:
            raise Mismatch("its manifest is of another kind") from error


def _differing(one: BaseModel, other: BaseModel) -> list[str]:
    fields = type(one).model_fields
    return [name for name in fields if getattr(one, name) != getattr(other, name)]


def stamp(file: Path) -> str:
    """Return size and time of a file; empty when it is not there."""
    try:
        info = file.stat()
    except FileNotFoundError:
        return ""
    return f"{info.st_size} {info.st_mtime_ns}"


def _read_key(file: Path) -> bytes:
    if not file.exists():
        partial = file.with_name(f"{file.name}.partial")
        partial.unlink(missing_ok=True)
        fd = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb") as made:
            made.write(secrets.token_bytes(KEY_BYTES))
            made.flush()
            os.fsync(made.fileno())
        partial.rename(file)
    return file.read_bytes()
