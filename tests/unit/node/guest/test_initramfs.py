import subprocess
from pathlib import Path

import pytest

from cakework.node.guest.initramfs import WANTED, write_initramfs

RELEASE = "6.1.0-test"
NEEDS = {"virtio_mmio": "virtio,virtio_ring", "virtio": "virtio_ring", "erofs": "libcrc32c"}
FILES = {"libcrc32c": "lib/libcrc32c.ko", "virtio_blk": "drivers/block/virtio-blk.ko"}


@pytest.fixture
def modules(tmp_path: Path) -> Path:
    """A kernel's modules: those wanted and what they need; overlay is built in."""
    release = tmp_path / "modules" / RELEASE
    for name in {*WANTED, "virtio", "virtio_ring", "libcrc32c", "unwanted"} - {"overlay"}:
        path = release / "kernel" / FILES.get(name, f"drivers/{name}.ko")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"ELF\0name=x\0depends=" + NEEDS.get(name, "").encode() + b"\0" + b"c")
    (release / "modules.builtin").write_text("kernel/fs/overlayfs/overlay.ko\n")
    return release.parent


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "guest"
    path.write_bytes(b"\x7fELF guest")
    return path


def unpack(archive: Path) -> Path:
    """Unpack with busybox, which knows nothing of our code."""
    folder = archive.parent / "unpacked"
    folder.mkdir()
    with archive.open("rb") as stream:
        subprocess.run(["busybox", "cpio", "-i", "-d"], stdin=stream, cwd=folder, check=True)
    return folder


def test_the_archive_holds_what_the_guest_needs(
    tmp_path: Path, program: Path, modules: Path
) -> None:
    """/init is the guest; modules are there, listed after what they depend on, no others."""
    write_initramfs(tmp_path / "initramfs", program, modules, RELEASE)
    root = unpack(tmp_path / "initramfs")
    assert (root / "init").read_bytes() == program.read_bytes()
    assert (root / "init").stat().st_mode & 0o777 == 0o755
    listed = (root / "etc/modules").read_text().splitlines()
    names = [Path(line).stem.replace("-", "_") for line in listed]
    assert all((root / line.lstrip("/")).is_file() for line in listed)
    assert set(names) == {*WANTED, "virtio", "virtio_ring", "libcrc32c"} - {"overlay"}
    assert names.index("virtio_ring") < names.index("virtio") < names.index("virtio_mmio")
    assert names.index("libcrc32c") < names.index("erofs")


def test_equal_input_gives_equal_bytes(tmp_path: Path, program: Path, modules: Path) -> None:
    """The archive depends on nothing but contents, so that it can be part of a fingerprint."""
    write_initramfs(tmp_path / "one", program, modules, RELEASE)
    program.touch()
    write_initramfs(tmp_path / "two", program, modules, RELEASE)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_a_missing_module_is_told(tmp_path: Path, program: Path, modules: Path) -> None:
    """Without a module that is needed there is no archive, not even half of one."""
    (modules / RELEASE / "kernel/lib/libcrc32c.ko").unlink()
    with pytest.raises(FileNotFoundError, match="libcrc32c"):
        write_initramfs(tmp_path / "initramfs", program, modules, RELEASE)
    assert not (tmp_path / "initramfs").exists()
