"""Makes an EROFS file of an OCI layout. Runs in the sandbox of an import, as a program by itself.

    unpack.py <layout> <layers> <out>    writes <out>/rootfs.erofs and <out>/image.json

Each layer is unpacked into a folder of its own, several at once; the kernel lays them over each
other. What a layer takes away (https://github.com/opencontainers/image-spec/blob/main/layer.md,
"Whiteouts") becomes the marks by which overlays know it.
"""

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NoReturn

MARK = ".wh."
OPAQUE = ".wh..wh..opq"
MADE_ELSEWHERE = "Cannot mknod: Operation not permitted"
"""Devices are of no use to a VM, which has its own, and cannot be made here."""
CUT_SHORT = "Wrote only"
TAR = [
    *("tar", "--extract", "--numeric-owner", "--same-owner", "--same-permissions"),
    *("--xattrs", "--xattrs-include=*"),
    *("--xattrs-exclude=user.overlay.*", "--xattrs-exclude=trusted.*"),
]
MKFS = ["mkfs.erofs", "--quiet", "--preserve-mtime", f"-U{'0' * 8}-0000-0000-0000-{'0' * 12}"]


def main(layout: Path, layers: Path, out: Path) -> None:
    """Unpack the one image of ``layout``."""
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(_blob(layout, index["manifests"][0]).read_bytes())
    config = _blob(layout, manifest["config"])
    folders = [layers / str(number) for number in range(len(manifest["layers"]))]
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        list(threads.map(_unpack, (_blob(layout, each) for each in manifest["layers"]), folders))
    _pack(layers, [folder.name for folder in folders], out / "rootfs.erofs")
    inspected = {"OCIv1": json.loads(config.read_bytes()), "FromImageID": config.name}
    (out / "image.json").write_text(json.dumps(inspected))


def _blob(layout: Path, descriptor: dict[str, Any]) -> Path:
    return layout / "blobs" / descriptor["digest"].replace(":", "/")


def _unpack(blob: Path, folder: Path) -> None:
    folder.mkdir(parents=True)
    command = [*TAR, f"--file={blob}", f"--directory={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode == -signal.SIGXFSZ:
        _fail("file too large")
    faults = [line for line in done.stderr.splitlines() if _is_fault(line)]
    if done.returncode and faults:
        _fail("no space left on device" if CUT_SHORT in faults[0] else faults[0])
    for place, names, files in os.walk(folder):
        marks = [name for name in (*names, *files) if name.startswith(MARK)]
        if marks:
            _take_away(Path(place), marks)
            names[:] = [name for name in names if not name.startswith(MARK)]


def _fail(fault: str) -> NoReturn:
    told = fault.removeprefix("tar: ").replace('"', "'")
    sys.exit(f'level=fatal msg="unpacking a layer: {told}"')


def _is_fault(line: str) -> bool:
    told = "Removing leading", "Exiting with failure status"
    return not line.endswith(MADE_ELSEWHERE) and not any(each in line for each in told)


def _take_away(folder: Path, marks: list[str]) -> None:
    times = folder.stat()
    for mark in marks:
        _remove(folder / mark)
        name = mark.removeprefix(MARK)
        if mark == OPAQUE:
            os.setxattr(folder, "user.overlay.opaque", b"y")
        elif name and not name.startswith((MARK, "..")) and name != ".":
            _hide(folder / name)
    os.utime(folder, ns=(times.st_atime_ns, times.st_mtime_ns))


def _hide(path: Path) -> None:
    """Have ``path`` hidden in layers below; what this layer has there itself stays."""
    if path.is_dir() and not path.is_symlink():
        os.setxattr(path, "user.overlay.opaque", b"y")
    elif not os.path.lexists(path):
        os.mknod(path, stat.S_IFCHR, os.makedev(0, 0))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _pack(layers: Path, names: list[str], image: Path) -> None:
    """Lay the folders ``names`` over each other, the last on top, and pack what comes of it."""
    root, below = layers / "root", layers / "none"
    root.mkdir(parents=True)
    below.mkdir()
    lower = ":".join((*reversed(names), below.name))
    mount = ["mount", "-t", "overlay", "overlay", "-o", f"ro,userxattr,lowerdir={lower}", root.name]
    subprocess.run(mount, cwd=layers, check=True)
    try:
        packed = subprocess.run([*MKFS, str(image), str(root)], stdout=sys.stderr, check=False)
    finally:
        subprocess.run(["umount", str(root)], check=True)
    if packed.returncode:
        sys.exit(packed.returncode)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
