"""Manifests: whatever differs is named, and nothing that others wrote is believed."""

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest

from cakework.domain.vms import Shape
from cakework.node.vms.manifest import NAME, Kind, Manifest, Mismatch, Needs, Seal, Stamps

NEEDS = Needs(
    software="s",
    arguments=("qemu", "-m"),
    template="t",
    processor="p",
    image_id="i",
    image="1 2",
    shape=Shape(),
    port=80,
    environment="e",
    volume_gb=0,
    volume="",
)
OTHER: dict[str, Any] = {
    "software": "x",
    "arguments": ("qemu",),
    "template": "x",
    "processor": "x",
    "image_id": "x",
    "image": "x",
    "shape": Shape(cpu=2),
    "port": None,
    "environment": "x",
    "volume_gb": 1,
    "volume": "x",
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A snapshot's folder."""
    made = tmp_path / "snapshot"
    made.mkdir()
    for name in ("ram", "state", "scratch"):
        (made / name).write_text(name)
    return made


def write(seal: Seal, folder: Path) -> Manifest:
    manifest = Manifest(
        kind="ready", vm_id="v", needs=NEEDS, files=Stamps.of(folder), lines=7, size_bytes=1
    )
    seal.write(folder, manifest)
    return manifest


def test_what_fits_is_read(folder: Path, tmp_path: Path) -> None:
    """By the node that wrote it, also after a restart; its key is its own alone."""
    manifest = write(Seal(tmp_path / "key"), folder)
    assert Seal(tmp_path / "key").read(folder, "ready", "v", NEEDS) == manifest
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    with pytest.raises(Mismatch, match="signature"):
        Seal(tmp_path / "other key").read(folder, "ready", "v", NEEDS)


def test_every_need_has_its_test() -> None:
    """No field is left out below."""
    assert set(OTHER) == set(Needs.model_fields)


@pytest.mark.parametrize("field", OTHER)
def test_every_need_counts(folder: Path, tmp_path: Path, field: str) -> None:
    """Where one thing is different from what it needs, that is named."""
    seal = Seal(tmp_path / "key")
    write(seal, folder)
    with pytest.raises(Mismatch, match=f"^it differs in {field}$"):
        seal.read(folder, "ready", "v", NEEDS.model_copy(update={field: OTHER[field]}))


@pytest.mark.parametrize(
    ("kind", "vm_id", "named"), [("kept", "v", "kind"), ("ready", "w", "vm_id")]
)
def test_it_is_that_of_one_vm(
    folder: Path, tmp_path: Path, kind: Kind, vm_id: str, named: str
) -> None:
    """Another VM's, or one of the other kind, is not taken for it."""
    seal = Seal(tmp_path / "key")
    write(seal, folder)
    with pytest.raises(Mismatch, match=f"^it differs in {named}$"):
        seal.read(folder, kind, vm_id, NEEDS)


@pytest.mark.parametrize("name", ["ram", "state", "scratch"])
def test_every_file_counts(folder: Path, tmp_path: Path, name: str) -> None:
    """A file that was changed is named; where one is gone, there is no snapshot, or it differs."""
    seal = Seal(tmp_path / "key")
    write(seal, folder)
    (folder / name).write_text("other")
    os.utime(folder / name, ns=(1, 1))
    with pytest.raises(Mismatch, match=f"^it differs in {name}$"):
        seal.read(folder, "ready", "v", NEEDS)
    (folder / name).unlink()
    with pytest.raises((Mismatch, FileNotFoundError)):
        seal.read(folder, "ready", "v", NEEDS)


@pytest.mark.parametrize("field", [*Manifest.model_fields])
def test_nothing_signed_can_be_changed(folder: Path, tmp_path: Path, field: str) -> None:
    """Any field changed, or left out, is found out by the signature."""
    seal = Seal(tmp_path / "key")
    write(seal, folder)
    line, _, signature = (folder / NAME).read_bytes().partition(b"\n")
    for changed in ({field: "other"}, None):
        content = json.loads(line)
        del content[field]
        content |= changed or {}
        (folder / NAME).write_bytes(json.dumps(content).encode() + b"\n" + signature)
        with pytest.raises(Mismatch, match="signature"):
            seal.read(folder, "ready", "v", NEEDS)


def test_environments_are_told_apart_and_not_told(tmp_path: Path) -> None:
    """Equal ones have one digest, in any order; it is another with another key."""
    seal = Seal(tmp_path / "key")
    assert seal.digest({"A": "1", "B": "2"}) == seal.digest({"B": "2", "A": "1"})
    assert seal.digest({"A": "1"}) != seal.digest({"A": "2"})
    assert seal.digest({"A": "1"}) != Seal(tmp_path / "other").digest({"A": "1"})
