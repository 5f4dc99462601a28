"""Territories: what nodes on one host share without getting in each other's way."""

import multiprocessing
import signal
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
        assert self.end.poll(20)
        self.number = self.end.recv()

    def kill(self) -> None:
        self.process.kill()
        self.process.join(20)
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
