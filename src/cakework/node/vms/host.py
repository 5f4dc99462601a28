"""What all machines of a node share."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from cakework.domain.vms import VmEgress
from cakework.node.network.namespaces import (
    Namespace,
    make_bare_namespace,
    make_secluded_namespace,
    make_vm_namespace,
)
from cakework.node.network.rules import Egress
from cakework.node.network.slots import Slots
from cakework.node.network.spares import Spares
from cakework.node.quiet import Quiet
from cakework.node.territory import Territory
from cakework.node.vms.artifacts import Artifacts
from cakework.node.vms.room import Footprint

Network = VmEgress | Literal["bare"]
"""What a machine reaches. A ``bare`` one is reached by nobody, either: none is a VM's."""


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

    def spare(self, network: Network) -> Namespace | None:
        """Take a network that was made ahead, and with it its slot; None if there is none."""
        return self.spares.take() if network == "internet" else None

    def make_network(self, network: Network) -> Callable[[int], Namespace]:
        """Return what makes such a network for a slot, in a thread."""
        match network:
            case "internet":
                return self.spares.make
            case "none":
                return make_secluded_namespace
            case "bare":
                return make_bare_namespace
