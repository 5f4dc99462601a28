"""A node's builds in machines of their own: real QEMU, real networks, facts kept."""

import contextlib
import socket
import time
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from cakework.node.builds import Builds
from cakework.node.builds.builder.yard import builder_yard
from cakework.node.cgroups import Cgroup
from cakework.node.network.builds import BuildNetworks
from cakework.node.network.names import HostNames
from cakework.node.network.namespaces import enable_forwarding, set_host_rules
from cakework.node.network.rules import Egress, no_rules, outer_rules
from cakework.node.territory import Territory
from cakework.node.vms.room import Room
from cakework.settings import Settings
from tests.integration.node.build_bench import Bench, Ledger, reach_of
from tests.integration.node.vm_site import DEADLINE_S, Yard, processes_of


class Names(HostNames):
    """Knows the names that a test gives and no others, so that no test needs a network."""

    def __init__(self, known: Mapping[str, Sequence[str]]) -> None:
        super().__init__()
        self._known = known

    async def lookup(self, account: str, name: str) -> list[str]:
        if name not in self._known:
            raise socket.gaierror(socket.EAI_NONAME, "as the test says")
        return list(self._known[name])


@dataclass
class BuilderBench(Bench):
    """A bench whose builds run in machines of ``yard``'s territory."""

    yard: Yard = field(kw_only=True)
    names: dict[str, list[str]] = field(default_factory=dict[str, list[str]])

    @property
    def territory(self) -> Territory:
        return self.yard.territory

    def settings(self, **changes: object) -> Settings:
        small = {"build_isolation": "vm", "build_memory_mb": 256, "image_size_mb": 512}
        return super().settings(**{**small, **changes})

    @contextlib.asynccontextmanager
    async def open(self, **changes: object) -> AsyncGenerator[Builds]:
        self.ledger = Ledger()
        settings = self.settings(**changes)
        reach = reach_of(settings)
        egress = Egress(settings.egress, tuple(settings.egress_allow))
        host = self.yard.host(settings.node_dir, egress=egress)
        set_host_rules(outer_rules(egress, self.territory, reach.ranges))
        enable_forwarding()
        networks = BuildNetworks(self.territory, host.slots, egress, reach, Names(self.names))
        try:
            room = Room(settings.node_dir, 4096, 0)
            yard = builder_yard(settings, host, "tcg", room, networks)
            async with Builds(settings, self.images(), networks, self.ledger, yard) as builds:
                yield builds
            assert room.promised_mb == 0
        finally:
            networks.close()
            set_host_rules(no_rules(self.territory))

    def clean(self) -> None:
        """Wait until nothing is left: the kernel takes links a moment after their namespaces."""
        deadline = time.monotonic() + DEADLINE_S
        while (left := self.leftovers()).keys() == {"links"} and time.monotonic() < deadline:
            time.sleep(0.01)
        assert left == {}

    def leftovers(self) -> dict[str, list[str]]:
        """Return what builds and their machines have left on the host, by kind."""
        machines = self.settings().node_dir / "machines"
        found = super().leftovers()
        found["cgroups"] += [each.name for each in Cgroup.existing(f"{self.territory.name}-")]
        found["processes"] += map(str, processes_of(self.territory))
        found["machines"] = [each.name for each in machines.iterdir()]
        found["links"] = list(self._links())
        return {kind: names for kind, names in found.items() if names}

    def _links(self) -> Iterator[str]:
        prefix = self.territory.interface_prefix
        for _, name in socket.if_nameindex():
            if name.startswith(prefix):
                yield name
