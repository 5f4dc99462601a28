"""Volumes: disks that outlive the machines they are shown to.

volumes/<vm id>             a sparse ext4 disk
volumes/.making-<vm id>     not whole yet; removed at start
"""

import asyncio
from functools import partial
from pathlib import Path

from cakework.domain.steps import Step
from cakework.faults import step
from cakework.node.vms.disks import make_ext4

MAKING = ".making-"


class Volumes:
    """The volumes of this host, one to a VM at the most."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for leftover in folder.glob(f"{MAKING}*"):
            leftover.unlink()

    def ids(self) -> list[str]:
        """Return the ids of the VMs that have one."""
        return [path.name for path in self._folder.iterdir() if path.name.isalnum()]

    async def get(self, vm_id: str, size_gb: int) -> Path:
        """Return the volume of ``vm_id``, made empty with ``size_gb`` if it is not there."""
        path = self.path(vm_id)
        if not path.exists():
            making = self._folder / f"{MAKING}{vm_id}"
            await asyncio.to_thread(partial(make_ext4, making, size_gb, journal=True))
            making.chmod(0o600)
            step(Step.NODE_VOLUME_MADE)
            making.rename(path)
            step(Step.NODE_VOLUME_NAMED)
        return path

    def remove(self, vm_id: str) -> None:
        """Remove the volume of ``vm_id``; one that is not there is no error."""
        self.path(vm_id).unlink(missing_ok=True)

    def path(self, vm_id: str) -> Path:
        """Return where the volume of ``vm_id`` is, or would be."""
        if not vm_id.isalnum():
            raise ValueError(f"{vm_id!r} is not the id of a VM")
        return self._folder / vm_id
