"""What a microVM is made of: kernel, initramfs, images, disks. All real."""

import os
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from cakework.node.guest.initramfs import write_initramfs

REPOSITORY = Path(__file__).parents[4]
KERNEL = REPOSITORY / ".build" / "kernel"
COMMANDS = """
    cat chmod date dd echo env false find head hostname id kill ls mkdir mkfifo mount od ps rm
    seq setsid sh sleep stat sync test touch tr true umount wc wget yes
"""
PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
GROUP = "root:x:0:\nteam:x:1001:\nextra:x:1234:other,app\n"


@dataclass(frozen=True, slots=True)
class Materials:
    """Paths of what all machines share."""

    kernel: Path
    initramfs: Path
    image: Path
    scratch: Path


def make_materials(folder: Path) -> Materials:
    """Build everything in ``folder``; the kernel is fetched if it is not there yet."""
    if not (KERNEL / "release").exists():
        subprocess.run([REPOSITORY / "tools" / "kernel"], check=True)
    release = (KERNEL / "release").read_text().strip()
    guest = _make_guest(folder / "guest")
    write_initramfs(folder / "initramfs", guest, KERNEL / "modules", release)
    make_image(folder / "image", {"which": "the first image"})
    make_disk(folder / "scratch", 64 << 20)
    return Materials(KERNEL / "vmlinuz", folder / "initramfs", folder / "image", folder / "scratch")


def _make_guest(build: Path) -> Path:
    environment = {key: value for key, value in os.environ.items() if key != "MAKEFLAGS"}
    make = ["make", "-s", "-C", str(REPOSITORY / "guest"), f"BUILD={build}"]
    subprocess.run([*make, str(build / "cakework-guest")], check=True, env=environment)
    return build / "cakework-guest"


def make_image(
    target: Path, files: dict[str, str | bytes], change: Callable[[Path], None] | None = None
) -> None:
    """Make an EROFS image of busybox and ``files``, by path; those in bin can be executed.

    ``change`` does to the folder of which it is made what else is to be done.
    """
    root = target.with_name(target.name + ".root")
    for folder in ("bin", "etc", "tmp"):
        (root / folder).mkdir(parents=True)
    (root / "bin/busybox").write_bytes(Path("/bin/busybox").read_bytes())
    for command in COMMANDS.split():
        (root / "bin" / command).symlink_to("busybox")
    for name, content in {"etc/passwd": PASSWD, "etc/group": GROUP, **files}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content.encode() if isinstance(content, str) else content)
    for program in (root / "bin").iterdir():
        if not program.is_symlink():
            program.chmod(0o755)
    if change is not None:
        change(root)
    subprocess.run(["mkfs.erofs", target, root], check=True, stdout=subprocess.DEVNULL)


def make_disk(target: Path, size: int) -> None:
    """Make an empty ext4 disk of ``size`` bytes."""
    with target.open("wb") as disk:
        disk.truncate(size)
    options = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-E", options, target], check=True)


def compile_static(target: Path, source: str) -> bytes:
    """Compile a C program against musl, and return its bytes."""
    compiler = ["musl-gcc", "-static", "-Os", "-D_GNU_SOURCE", "-x", "c", "-o", str(target), "-"]
    subprocess.run(compiler, input=source.encode(), check=True)
    return target.read_bytes()
