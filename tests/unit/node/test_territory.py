"""Territories: what nodes on one host share without getting in each other's way."""

import contextlib
import fcntl
import multiprocessing
import signal
import subprocess
import threading
from collections.abc import Generator
from itertools import combinations
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from cakework.domain.errors import Unavailable
from cakework.node.territory import SLOTS, TERRITORIES, Territory, lease_territory


def hold(node_dir: Path, locks: Path, answer: Connection) -> None:
    answer.send(lease_territory(node_dir, locks).number)
    answer.recv()


class Node:
    """A process that leases a territory for a data folder, until it is killed."""

    def __init__(self, folder: Path, name: str) -> None:
        node_dir = folder / name
        node_dir.mkdir(exist_ok=True)
        self.end, other = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=hold, args=(node_dir, folder / "locks", other))
        self.process.start()
        other.close()
        assert self.end.poll(60)
        self.number = self.end.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(60)
        assert self.process.exitcode == -signal.SIGKILL
        self.process.close()
        self.end.close()


def test_nodes_get_territories_of_their_own_and_back_again(tmp_path: Path) -> None:
    """Two nodes get different ones; a killed one gets its own back, whoever came meanwhile."""
    first, second = Node(tmp_path, "a"), Node(tmp_path, "b")
    assert first.number != second.number
    with pytest.raises(Unavailable, match="another node already runs"):
        lease_territory(tmp_path / "a", tmp_path / "locks")
    first.kill()
    third = Node(tmp_path, "c")
    again = Node(tmp_path, "a")
    assert third.number not in (first.number, second.number)
    assert again.number == first.number
    for node in (second, third, again):
        node.kill()


def test_who_only_looks_keeps_no_node_from_coming_back(tmp_path: Path) -> None:
    """A node that looks for a territory locks those of others for a moment."""
    node = Node(tmp_path, "a")
    node.kill()
    look = (tmp_path / "locks" / str(node.number)).open()
    fcntl.flock(look, fcntl.LOCK_EX)
    timer = threading.Timer(0.2, look.close)
    timer.start()
    assert lease_territory(tmp_path / "a", tmp_path / "locks").number == node.number
    timer.join()


def test_a_territory_that_was_taken_after_a_restart_of_the_host_is_given_up(tmp_path: Path) -> None:
    """Locks go when the host restarts; who comes second then takes another and runs."""
    first = Node(tmp_path, "a")
    first.kill()
    (tmp_path / "locks" / str(first.number)).unlink()
    newcomer, again = Node(tmp_path, "b"), Node(tmp_path, "a")
    assert newcomer.number == first.number
    assert again.number != newcomer.number
    newcomer.kill()
    again.kill()


def test_the_territory_of_a_folder_that_is_gone_is_free(tmp_path: Path) -> None:
    """What no data folder remembers is leased again."""
    first = Node(tmp_path, "a")
    first.kill()
    (tmp_path / "a" / "territory").unlink()
    second = Node(tmp_path, "b")
    assert second.number == first.number
    second.kill()


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Territory:
    """One that no other test on this host has, so that what has its numbers is of this one."""
    return lease_territory(tmp_path_factory.mktemp("own"))


@pytest.mark.parametrize("running", ["process", "interface"])
def test_folders_left_behind_keep_no_node_from_starting(
    tmp_path: Path, own: Territory, running: str
) -> None:
    """All are remembered: one of which nothing runs is taken, and its owner takes another."""
    locks = tmp_path / "locks"
    locks.mkdir()
    for number in range(TERRITORIES):
        owner = tmp_path / f"left{number}"
        owner.mkdir()
        (owner / "territory").write_text(str(number))
        (locks / str(number)).write_text(str(owner.resolve()))
    with left_running(own, running):
        newcomer = Node(tmp_path, "new")
        assert newcomer.number != own.number
    again = Node(tmp_path, f"left{newcomer.number}")
    assert again.number != newcomer.number
    newcomer.kill()
    again.kill()


def test_what_still_runs_is_never_taken_from_its_owner(tmp_path: Path, own: Territory) -> None:
    """Where all other nodes run, the territory of one that left a VM running is not given away."""
    locks = tmp_path / "locks"
    locks.mkdir()
    (tmp_path / "new").mkdir()
    left = own.number
    owner = tmp_path / "left"
    owner.mkdir()
    (owner / "territory").write_text(str(left))
    (locks / str(left)).write_text(str(owner.resolve()))
    with contextlib.ExitStack() as stack:
        for number in {*range(TERRITORIES)} - {left}:
            file = stack.enter_context((locks / str(number)).open("w"))
            fcntl.flock(file, fcntl.LOCK_EX)
        with (
            left_running(own, "process"),
            pytest.raises(Unavailable, match="64 nodes run on this host already"),
        ):
            lease_territory(tmp_path / "new", locks)
        assert lease_territory(tmp_path / "new", locks).number == left


@contextlib.contextmanager
def left_running(territory: Territory, kind: str) -> Generator[None]:
    """Have a process or an interface on the host that is of ``territory``, as a VM would be."""
    if kind == "process":
        sleeper = subprocess.Popen(["sleep", "60"], user=territory.uid(SLOTS - 1))
        try:
            yield
        finally:
            sleeper.kill()
            sleeper.wait()
    else:
        name = f"{territory.interface_prefix}{SLOTS - 1}"
        subprocess.run(["ip", "link", "add", name, "type", "veth"], check=True)
        try:
            yield
        finally:
            subprocess.run(["ip", "link", "delete", name], check=True)


def test_numbers_of_territories_are_disjoint() -> None:
    """No user id, subnet or interface name belongs to two of them."""
    territories = [Territory(number) for number in range(TERRITORIES)]
    uids = {territory.uid(slot) for territory in territories for slot in (0, SLOTS - 1)}
    assert len(uids) == 2 * TERRITORIES
    assert all(t.uid(SLOTS - 1) - t.uid(0) == SLOTS - 1 for t in territories)
    for one, other in combinations(territories, 2):
        assert not one.subnet.overlaps(other.subnet)
        assert not f"{other.interface_prefix}0".startswith(one.interface_prefix)


def test_addresses_of_slots_are_disjoint_and_in_the_subnet() -> None:
    """Each slot has a pair that no other has; the longest interface name fits the kernel's 15."""
    territory = Territory(TERRITORIES - 1)
    pairs = [territory.addresses(slot) for slot in range(SLOTS)]
    addresses = {address for pair in pairs for address in pair}
    assert addresses == {str(address) for address in territory.subnet}
    assert len(f"{territory.interface_prefix}{SLOTS - 1}p") <= 15
