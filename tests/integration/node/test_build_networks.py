"""What is reached from where builds run and images are fetched: real namespaces, real filters."""

import asyncio
import os
import socket
import subprocess
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from cakework.node.network.builds import BuildNetworks, Reach
from cakework.node.network.names import HostNames
from cakework.node.network.namespaces import enable_forwarding, run_inside, set_host_rules
from cakework.node.network.rules import Egress, no_rules, outer_rules
from cakework.node.network.slots import Slots
from cakework.node.territory import Territory, lease_territory
from tests.integration.node.neighbours import PRIVATE, greeting_on, neighbouring

OWNER = "an account"
RANGE = f"{PRIVATE}/32"
NAMES = {"public.example": ["93.184.216.34"], "private.example": [PRIVATE]}


@pytest.fixture(scope="module")
def territory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Territory]:
    leased = lease_territory(tmp_path_factory.mktemp("node"))
    enable_forwarding()
    yield leased
    set_host_rules(no_rules(leased))


@pytest.fixture(scope="module")
def neighbour() -> Iterator[int]:
    """A machine in the host's private network, at PRIVATE; give the port on which it says hello."""
    with neighbouring() as port:
        yield port


@pytest.fixture(scope="module")
def loopback() -> Iterator[int]:
    """A port of the host's loopback interface that says hello."""
    with socket.create_server(("127.0.0.1", 0)) as listener, greeting_on(listener) as port:
        yield port


@asynccontextmanager
async def networks(territory: Territory, reach: Reach) -> AsyncGenerator[BuildNetworks]:
    """Networks of a node whose names are NAMES."""
    egress = Egress()
    set_host_rules(outer_rules(egress, territory, reach.ranges))
    made = BuildNetworks(territory, Slots(), egress, reach, Names())
    try:
        yield made
    finally:
        made.close()


class Names(HostNames):
    """Knows NAMES and no others, so that the tests need no network."""

    async def lookup(self, account: str, name: str) -> list[str]:
        if name not in NAMES:
            raise socket.gaierror(socket.EAI_NONAME, "as the test says")
        return NAMES[name]


def look(territory: Territory, reach: Reach, *, fetching: bool, work: Callable[[], str]) -> str:
    """Do ``work`` in a leased namespace; return what it returns."""

    async def run() -> str:
        async with (
            networks(territory, reach) as made,
            made.lease_fetching(OWNER) if fetching else made.lease(OWNER) as path,
        ):
            fd = os.open(path, os.O_RDONLY)
            try:
                return await asyncio.to_thread(run_inside, fd, work)
            finally:
                os.close(fd)

    return asyncio.run(run())


def greeting(host: str, port: int, timeout_s: float = 60) -> Callable[[], str]:
    """Return what says what is heard at an address: the greeting, or the error's name."""

    def work() -> str:
        try:
            with socket.create_connection((host, port), timeout=timeout_s) as connection:
                return connection.recv(10).decode()
        except OSError as error:
            return type(error).__name__

    return work


def asked(name: str, kind: int = 1) -> Callable[[], str]:
    """Return what asks the resolver for ``name``: its code, and the last 4 bytes of an answer."""

    def work() -> str:
        labels = b"".join(bytes([len(part)]) + part.encode() for part in name.split("."))
        query = b"\x12\x34\x01\x00\x00\x01" + bytes(6) + labels + b"\0" + bytes([0, kind, 0, 1])
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(60)
            client.sendto(query, ("127.0.0.1", 53))
            answer = client.recv(512)
        assert answer[:2] == b"\x12\x34"
        count = int.from_bytes(answer[6:8])
        return f"{answer[3] & 15} {socket.inet_ntoa(answer[-4:]) if count else '-'}"

    return work


def test_private_addresses_are_reached_for_fetching_where_allowed(
    territory: Territory, neighbour: int
) -> None:
    """The range that fetch_allow names, from where images are fetched, and from no build."""
    work = greeting(PRIVATE, neighbour)
    reach = Reach((RANGE,))
    assert look(territory, reach, fetching=True, work=work) == "hello"
    assert look(territory, reach, fetching=False, work=work) == "OSError"
    assert look(territory, Reach(), fetching=True, work=work) == "OSError"


def test_the_host_is_reached_by_nobody(territory: Territory, loopback: int) -> None:
    """Neither at its addresses, even in a range that is allowed, nor at its loopback ones."""
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        reach = Reach(("10.0.0.0/8",))
        host_end = territory.addresses(0)[0]
        heard = look(territory, reach, fetching=True, work=greeting(host_end, port, 3))
    assert heard == "TimeoutError"
    heard = look(territory, reach, fetching=True, work=greeting("127.0.0.1", loopback))
    assert heard == "ConnectionRefusedError"


def test_one_port_of_the_hosts_loopback_is_relayed_where_allowed(
    territory: Territory, loopback: int
) -> None:
    """The port that fetch_allow names, from where images are fetched, and from no build."""
    reach = Reach.parse([f"127.0.0.1:{loopback}"], [])
    work = greeting("127.0.0.1", loopback)
    assert look(territory, reach, fetching=True, work=work) == "hello"
    assert look(territory, reach, fetching=False, work=work) == "ConnectionRefusedError"


def test_names_are_answered_for_the_public_internet(territory: Territory) -> None:
    """Builds learn public addresses; of private ones, and of no name, the same: not there."""
    reach = Reach((RANGE,))
    for name, answer in (
        ("public.example", "0 93.184.216.34"),
        ("private.example", "3 -"),
        ("none.example", "3 -"),
    ):
        assert look(territory, reach, fetching=False, work=asked(name)) == answer
    assert look(territory, reach, fetching=True, work=asked("private.example")) == f"0 {PRIVATE}"
    assert look(territory, reach, fetching=False, work=asked("public.example", 28)) == "0 -"
    assert look(territory, reach, fetching=False, work=asked("public.example", 16)) == "4 -"


def test_a_lease_leaves_nothing(territory: Territory) -> None:
    """Interface and entry in the host's filter go with it."""
    look(territory, Reach((RANGE,)), fetching=True, work=lambda: "")
    deadline = time.monotonic() + 60
    # The kernel takes a namespace's devices a moment after its last descriptor.
    while list(Path("/sys/class/net").glob(f"{territory.interface_prefix}*")):
        assert time.monotonic() < deadline
    listed = subprocess.run(
        ["nft", "list", "set", "ip", territory.name, "fetching"], capture_output=True, check=True
    )
    assert b"elements" not in listed.stdout
