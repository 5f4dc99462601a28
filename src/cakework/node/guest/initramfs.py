"""The initramfs that microVMs boot: the guest as /init, and the kernel modules it loads."""

import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

WANTED = (
    "virtio_mmio",
    "virtio_blk",
    "virtio_net",
    "virtio_console",
    "erofs",
    "overlay",
    "tcp_diag",
)
"""Modules the guest needs; what they depend on is added."""

_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    mode: int
    content: bytes = b""


def write_initramfs(target: Path, guest: Path, modules_dir: Path, kernel_release: str) -> None:
    """Write a cpio archive ("newc", uncompressed) to ``target``, replacing it at once.

    ``guest`` is the program that becomes ``/init``; ``modules_dir`` holds
    ``<kernel_release>/kernel/…/*.ko``. Equal input gives equal bytes.

    Raises:
        FileNotFoundError: the guest, or a module that is needed and not built into the
            kernel, is not there.
    """
    modules = _load_order(modules_dir / kernel_release)
    partial = target.with_name(target.name + ".partial")
    with partial.open("wb") as archive:
        for number, entry in enumerate(_entries(guest, modules), start=1):
            archive.write(_cpio(number, entry))
        archive.write(_cpio(0, _Entry("TRAILER!!!", 0)))
    partial.replace(target)


def _load_order(release_dir: Path) -> list[Path]:
    files = {_module_name(path.stem): path for path in release_dir.glob("kernel/**/*.ko")}
    builtin = _builtin(release_dir / "modules.builtin")
    ordered: dict[str, Path] = {}

    def add(name: str) -> None:
        if name in ordered or name in builtin:
            return
        if name not in files:
            raise FileNotFoundError(f"the kernel in {release_dir} has no module {name}")
        for dependency in _dependencies(files[name]):
            add(dependency)
        ordered[name] = files[name]

    for name in WANTED:
        add(name)
    return list(ordered.values())


def _builtin(listing: Path) -> frozenset[str]:
    lines = listing.read_text().splitlines()
    return frozenset(_module_name(Path(line).stem) for line in lines)


def _module_name(stem: str) -> str:
    return stem.replace("-", "_")


def _dependencies(module: Path) -> list[str]:
    """Return the modules that ``module`` says, in its modinfo, it needs loaded before it."""
    found = _DEPENDS.search(module.read_bytes())
    names = found[1].decode().split(",") if found else []
    return [_module_name(name) for name in names if name]


def _entries(guest: Path, modules: list[Path]) -> Iterator[_Entry]:
    folder, program = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755
    listing = "".join(f"/modules/{path.name}\n" for path in modules)
    yield _Entry("init", program, guest.read_bytes())
    yield _Entry("etc", folder)
    yield _Entry("etc/modules", stat.S_IFREG | 0o644, listing.encode())
    yield _Entry("modules", folder)
    for path in modules:
        yield _Entry(f"modules/{path.name}", stat.S_IFREG | 0o644, path.read_bytes())


def _cpio(inode: int, entry: _Entry) -> bytes:
    """Return one member: kernel's Documentation/driver-api/early-userspace/buffer-format.rst."""
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(name), 0)
    head = b"070701" + b"".join(b"%08X" % value for value in fields) + name
    return _padded(head) + _padded(entry.content)


def _padded(value: bytes) -> bytes:
    return value + bytes(-len(value) % 4)
