"""A template: a machine booted once, as files that any number of machines are restored from."""

from dataclasses import dataclass
from pathlib import Path

from cakework.node.vms.qemu import MachineSpec


@dataclass(frozen=True, slots=True)
class Template:
    """A whole template.

    ram               the guest's memory, mapped privately by each restored machine
    state             processors and devices, a QEMU migration stream without the memory
    scratch           the writable disk as it was then (ext4, sparse), copied for each machine
    rehearsal.erofs   the image disk as it was then
    """

    folder: Path
    spec: MachineSpec

    @property
    def ram(self) -> Path:
        """The guest's memory."""
        return self.folder / "ram"

    @property
    def state(self) -> Path:
        """Processors and devices."""
        return self.folder / "state"

    @property
    def scratch(self) -> Path:
        """The writable disk."""
        return self.folder / "scratch"
