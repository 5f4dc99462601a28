"""What all machines of a node share."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from cakework.node.network.namespaces import make_vm_namespace
from cakework.node.network.rules import Egress
from cakework.node.network.slots import Slots
from cakework.node.network.spares import Spares
from cakework.node.quiet import Quiet
from cakework.node.territory import Territory
from cakework.node.vms.artifacts import Artifacts
from cakework.node.vms.room import Footprint


@dataclass(frozen=True, slots=True)
class Host:
    """One node's place on its host: folders, numbers, networks, and what machines may take.

    ``group`` is a control group that those of its machines are within, if there is one.
    """

    machines_dir: Path
    artifacts: Artifacts
    territory: Territory
    slots: Slots
    dns: tuple[str, ...]
    quiet: Quiet
    spares: Spares
    footprint: Footprint
    group: str = ""

    @classmethod
    def assemble(
        cls,
        machines_dir: Path,
        artifacts: Artifacts,
        territory: Territory,
        egress: Egress,
        dns: tuple[str, ...],
        spare_networks: int = 0,
    ) -> "Host":
        """Return a host of which no slot is taken, with ``spare_networks`` made ahead when its
        spares are filled."""
        slots, quiet = Slots(), Quiet()
        make = partial(make_vm_namespace, territory, egress=egress)
        spares = Spares(make, slots, quiet, spare_networks)
        return cls(machines_dir, artifacts, territory, slots, dns, quiet, spares, Footprint())
