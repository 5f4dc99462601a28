"""The images of this node: each a read-only root file system and what to run in it.

    images/<image id>/rootfs.erofs    the files, shared by all VMs of the image
    images/<image id>/config.json     :class:`RunConfig`
    images/.making-*/                 not whole yet; removed at start

An image is put together in a folder of its own, which then gets its name in one step: it is
there whole, or it is not there.
"""

import asyncio
import os
import shutil
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

import anyio.to_thread
from pydantic import BaseModel, ConfigDict

from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.cleanup import cleanup
from cakework.unbroken import unbroken

ROOTFS = "rootfs.erofs"
CONFIG = "config.json"
MAKING = ".making-"
REMOVING = ".removing-"


class RunConfig(BaseModel):
    """What an image says about running it, in OCI's terms.

    ``argv`` is the entrypoint followed by the command; empty when the image names neither.
    ``env`` holds ``NAME=value``. ``user`` is OCI's ``user[:group]``, empty for root. ``ports``
    are the exposed ones, ``80/tcp``. ``size_bytes`` is that of the root file system's file,
    ``digest`` that of the OCI image it was made from.
    """

    model_config = ConfigDict(frozen=True)

    argv: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    cwd: str = "/"
    user: str = ""
    ports: tuple[str, ...] = ()
    stop_signal: str | None = None
    size_bytes: int = 0
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """A whole image: its id, the path of its root file system, how it is run."""

    image_id: str
    rootfs: Path
    config: RunConfig


class ImageStore:
    """The folder that holds the node's images. Make one per node."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        folder.chmod(0o700)
        for leftover in (*folder.glob(f"{MAKING}*"), *folder.glob(f"{REMOVING}*")):
            shutil.rmtree(leftover)

    def path(self, image_id: str) -> Path:
        """Return the folder of ``image_id``, there or not."""
        if not image_id.isalnum():
            raise ValueError(f"{image_id!r} is not the id of an image")
        return self.folder / image_id

    def get(self, image_id: str) -> Image | None:
        """Return the image, or None if it is not there."""
        folder = self.path(image_id)
        try:
            config = RunConfig.model_validate_json((folder / CONFIG).read_bytes())
        except FileNotFoundError:
            return None
        return Image(image_id, folder / ROOTFS, config)

    def ids(self) -> list[str]:
        """Return the ids of all whole images."""
        return sorted(entry.name for entry in self.folder.iterdir() if entry.name.isalnum())

    async def put(self, image_id: str, rootfs: Path, config: RunConfig) -> Image:
        """Take ``rootfs`` (moved, so of this file system) as image ``image_id``.

        An image of that id that is there already stays as it is.
        """
        return await unbroken(asyncio.to_thread(self._put, image_id, rootfs, config))

    async def remove(self, image_id: str) -> None:
        """Remove the image; one that is not there is no error. VMs that run keep its file."""
        await anyio.to_thread.run_sync(self._remove, image_id)

    def _put(self, image_id: str, rootfs: Path, config: RunConfig) -> Image:
        target = self.path(image_id)
        making = Path(tempfile.mkdtemp(prefix=MAKING, dir=self.folder))
        try:
            rootfs.rename(making / ROOTFS)
            _own(making / ROOTFS)
            whole = config.model_copy(update={"size_bytes": (making / ROOTFS).stat().st_size})
            (making / CONFIG).write_text(whole.model_dump_json(indent=1))
            (making / CONFIG).chmod(0o600)
            for path in (making / ROOTFS, making / CONFIG, making):
                _sync(path)
            step(Step.NODE_IMAGE_WRITTEN)
            if not target.exists():
                making.rename(target)
                _sync(self.folder)
            step(Step.NODE_IMAGE_NAMED)
        finally:
            shutil.rmtree(making, ignore_errors=True)
        image = self.get(image_id)
        if image is None:
            raise FileNotFoundError(f"image {image_id} went away while it was made")
        return image

    def _remove(self, image_id: str) -> None:
        gone = Path(tempfile.mkdtemp(prefix=REMOVING, dir=self.folder))
        try:
            self.path(image_id).rename(gone / image_id)
            step(Step.NODE_IMAGE_SET_ASIDE)
        except FileNotFoundError:
            pass
        finally:
            with cleanup("image", image_id=image_id):
                shutil.rmtree(gone)


def _own(file: Path) -> None:
    """Take a file that an unprivileged id made; whoever is shown its folder, QEMUs, may read it."""
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise ValueError(f"{file} is not a file of its own")
    os.chown(file, os.geteuid(), os.getegid(), follow_symlinks=False)
    file.chmod(0o444)


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
