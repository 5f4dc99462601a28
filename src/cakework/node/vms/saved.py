"""A machine saved as files, which any number of machines can be restored from."""

from dataclasses import dataclass
from pathlib import Path

from cakework.node.vms.qemu import MachineSpec


@dataclass(frozen=True, slots=True)
class Saved:
    """What templates and snapshots are.

    ram       the guest's memory, mapped privately by each restored machine
    state     processors and devices, a QEMU migration stream without the memory
    scratch   the writable disk as it was then (ext4, sparse), copied for each machine

    ``lines`` is how many lines its program has printed, all of them recorded. ``image`` is the
    file that the program runs from; none when there is no program yet.
    """

    folder: Path
    spec: MachineSpec
    lines: int = 0
    image: Path | None = None

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
