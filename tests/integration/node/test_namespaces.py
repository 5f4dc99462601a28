"""Networks of VMs on a real kernel: what stops a packet is a wall, each of the two by itself.

The tests run in a network namespace of their own that plays the host, beside one that plays
the world: both public and private addresses are there, and somebody listens on each.
"""

import ctypes
import os
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from cakework.node.network.namespaces import (
    CLONE_NEWNET,
    GATEWAY,
    GUEST_ADDRESS,
    TAP,
    Namespace,
    adopt_namespace,
    enable_forwarding,
    host_end_name,
    make_build_namespace,
    make_secluded_namespace,
    make_vm_namespace,
    run_inside,
    set_host_rules,
    unplug,
    unplug_left,
)
from cakework.node.network.rules import Egress, no_rules, outer_rules, secluded_rules
from cakework.node.territory import Territory
from tests.integration.node.tap_guest import BROADCAST, TapGuest
from tests.integration.open_files import count_open_files

TERRITORY = Territory(60)
SLOT, NEIGHBOUR = 5, 6
PUBLIC = "11.22.33.44"
PRIVATE, METADATA, LAN = "10.99.0.2", "169.254.169.254", "192.168.77.2"
WIRESERVER = "168.63.129.16"
"""Azure's: a public address, answered by the host's neighbour."""
HOST, (NEIGHBOURS_HOST, OTHER) = TERRITORY.addresses(SLOT)[0], TERRITORY.addresses(NEIGHBOUR)
WORLDS_HOST = "203.0.113.1"
PORT = 7777
ONLY_NAT = """
flush ruleset
table ip nat { chain leaving {
  type nat hook postrouting priority 100; oifname "uplink" masquerade;
}; }
"""
TRACKING = """
table ip tracking { chain passing {
  type filter hook forward priority 0; ct state invalid drop;
}; }
"""
"""A host tracks connections where a rule asks for them, and in practice one always does."""
ALL = Egress()
FLOOD = 3000
libc = ctypes.CDLL(None, use_errno=True)


@pytest.fixture(autouse=True)
def host() -> Iterator[None]:
    """Play the host in a network namespace of this thread's own, with a world beside it."""
    before = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0
    try:
        enable_forwarding()
        _ip("link set lo up")
        yield
    finally:
        assert libc.setns(before, CLONE_NEWNET) == 0
        os.close(before)


@pytest.fixture
def world() -> Iterator[int]:
    """A neighbour of the host that has public and private addresses; its namespace."""
    with subprocess.Popen(["unshare", "-n", "sleep", "600"]) as holder:
        ours = Path("/proc/self/ns/net").stat().st_ino
        while Path(f"/proc/{holder.pid}/ns/net").stat().st_ino == ours:
            assert holder.poll() is None
        fd = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY)
        _ip("link add out type veth peer name in")
        _ip(f"link set in netns {holder.pid}")
        _ip("addr add 203.0.113.1/30 dev out")
        _ip("link set out up")
        run_inside(fd, lambda: _ip("addr add 203.0.113.2/30 dev in"))
        run_inside(fd, lambda: _ip("link set in up"))
        run_inside(fd, lambda: _ip("route add default via 203.0.113.1"))
        for address in (PUBLIC, PRIVATE, METADATA, LAN, WIRESERVER):
            run_inside(fd, lambda address=address: _ip(f"addr add {address}/32 dev in"))
            _ip(f"route add {address}/32 via 203.0.113.2")
        yield fd
        os.close(fd)
        holder.kill()


@contextmanager
def vm_namespace(egress: Egress = ALL, slot: int = SLOT) -> Generator[Namespace]:
    namespace = make_vm_namespace(TERRITORY, slot, egress)
    try:
        yield namespace
    finally:
        namespace.close()


@contextmanager
def listener(namespace: int, address: str, port: int = PORT) -> Generator[socket.socket]:
    made = run_inside(namespace, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
    with made:
        made.bind((address, port))
        made.settimeout(60)
        yield made


def take_down(namespace: Namespace, wall: str) -> None:
    """Leave the namespace without a wall, but with its translation of addresses."""
    if wall in ("inner", "both"):
        run_inside(namespace.fd, lambda: set_host_rules(ONLY_NAT))
    if wall in ("outer", "both"):
        set_host_rules(no_rules(TERRITORY))


def guest_of(namespace: Namespace) -> TapGuest:
    assert namespace.tap is not None
    guest = TapGuest(namespace.tap)
    guest.meet(GATEWAY)
    return guest


def arrived(target: socket.socket) -> list[bytes]:
    """Return what has come by now."""
    target.setblocking(False)
    found: list[bytes] = []
    while True:
        try:
            found.append(target.recv(100))
        except BlockingIOError:
            return found


def tracked() -> int:
    """Return how many connections are in the host's table."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


@pytest.mark.parametrize("down", ["none", "inner", "outer", "both"])
@pytest.mark.parametrize("target", [PRIVATE, METADATA, LAN, WIRESERVER, HOST, OTHER])
def test_each_wall_is_enough(world: int, target: str, down: str) -> None:
    """Private ranges, the host and other slots are out of reach with either wall alone;
    without both they are reached, so nothing else stands in between."""
    set_host_rules(outer_rules(Egress(), TERRITORY))
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with ExitStack() as stack:
        stack.callback(os.close, own)
        namespace = stack.enter_context(vm_namespace())
        other = stack.enter_context(vm_namespace(slot=NEIGHBOUR))
        run_inside(other.fd, lambda: set_host_rules("flush ruleset"))
        where = {HOST: own, OTHER: other.fd}.get(target, world)
        forbidden = stack.enter_context(listener(where, target))
        public = stack.enter_context(listener(world, PUBLIC))
        take_down(namespace, down)
        guest = guest_of(namespace)
        guest.say(b"forbidden", target, PORT)
        guest.say(b"allowed", PUBLIC, PORT)
        assert public.recv(100) == b"allowed"
        if down == "both":
            assert forbidden.recv(100) == b"forbidden"
        assert arrived(forbidden) == []


@pytest.mark.parametrize("down", ["none", "inner", "outer", "both"])
@pytest.mark.parametrize("target", [METADATA, WIRESERVER])
def test_each_wall_of_a_build_is_enough(world: int, target: str, down: str) -> None:
    """The same for what runs in a build's namespace itself, and for what fetches there."""
    set_host_rules(outer_rules(Egress(), TERRITORY))
    namespace = make_build_namespace(TERRITORY, SLOT, ALL)
    with (
        closing(namespace),
        listener(world, target) as forbidden,
        listener(world, PUBLIC) as public,
    ):
        take_down(namespace, down)

        def say(text: bytes, address: str) -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
                made.sendto(text, (address, PORT))

        with suppress(PermissionError):
            run_inside(namespace.fd, lambda: say(b"forbidden", target))
        run_inside(namespace.fd, lambda: say(b"allowed", PUBLIC))
        assert public.recv(100) == b"allowed"
        if down == "both":
            assert forbidden.recv(100) == b"forbidden"
        assert arrived(forbidden) == []


@pytest.mark.parametrize("down", ["inner", "outer", "both"])
def test_a_guest_cannot_be_another(world: int, down: str) -> None:
    """A datagram with a foreign source goes nowhere, be it the neighbour's or the world's."""
    set_host_rules(outer_rules(Egress(), TERRITORY))
    with vm_namespace() as namespace, listener(world, PUBLIC) as public:
        if down in ("inner", "both"):
            run_inside(namespace.fd, lambda: set_host_rules("flush ruleset"))
        if down in ("outer", "both"):
            set_host_rules(no_rules(TERRITORY))
        guest = guest_of(namespace)
        guest.say(b"forged", PUBLIC, PORT, source="172.31.255.9")
        guest.say(b"forged", PUBLIC, PORT, source="8.8.4.4")
        if down != "outer":
            run_inside(namespace.fd, lambda: set_host_rules(ONLY_NAT))
        guest.say(b"own", PUBLIC, PORT)
        received = [public.recv(100)]
        while received[-1] != b"own":
            received.append(public.recv(100))
        assert (b"forged" in received) == (down == "both")


@contextmanager
def secluded(links: str) -> Generator[Namespace]:
    """A namespace without egress: as it is made, with its ``rules`` alone between it and the world,
    with its want of a ``link`` alone, or with ``neither``."""
    if links in ("made", "link"):
        namespace = make_secluded_namespace(SLOT)
    else:
        namespace = make_vm_namespace(TERRITORY, SLOT, ALL)
    rules = secluded_rules(GUEST_ADDRESS, GATEWAY, TAP) if links == "rules" else ""
    try:
        if links != "made":
            run_inside(namespace.fd, lambda: set_host_rules("flush ruleset\n" + rules))
            run_inside(namespace.fd, enable_forwarding)
        if links == "neither":
            run_inside(namespace.fd, lambda: set_host_rules(ONLY_NAT))
        yield namespace
    finally:
        namespace.close()


@pytest.mark.parametrize("by", ["made", "rules", "link", "neither"])
def test_without_egress_of_its_own_a_guest_reaches_nobody(world: int, by: str) -> None:
    """Whatever its kernel sends: no address of the world, the host or a neighbour hears of it. That
    there is no link is enough, and so are the rules; where both are missing it is heard, though
    the host's own rules are not there in any case."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    with ExitStack() as stack:
        stack.callback(os.close, own)
        namespace = stack.enter_context(secluded(by))
        other = stack.enter_context(vm_namespace(slot=NEIGHBOUR))
        run_inside(other.fd, lambda: set_host_rules("flush ruleset"))
        world_has = (PUBLIC, PRIVATE, METADATA, LAN, WIRESERVER)
        places = [(world, address) for address in world_has]
        places += [(own, WORLDS_HOST), (own, NEIGHBOURS_HOST), (other.fd, OTHER)]
        heard = [stack.enter_context(listener(*place)) for place in places]
        guest = guest_of(namespace)
        for _, target in places:
            guest.say(b"said", target, PORT)
            guest.say(b"said", target, PORT, source=TERRITORY.addresses(SLOT)[1])
            guest.say(b"said", target, PORT, source=GATEWAY)
            guest.say(b"said", target, PORT, to=BROADCAST)
        for text in ("255.255.255.255", "224.0.0.1", "127.0.0.1"):
            guest.say(b"said", text, PORT)
        guest.say_by_ipv6(b"said", "ff02::1", PORT, "fe80::1")
        guest.say_by_ipv6(b"said", "2001:db8::1", PORT, "2001:db8::2")
        with vm_namespace(slot=NEIGHBOUR + 1) as whole:
            guest_of(whole).say(b"allowed", PUBLIC, PORT)
            assert heard[0].recv(100) == (b"said" if by == "neither" else b"allowed")
        found = {place: arrived(each) for place, each in zip(places, heard, strict=True)}
        assert any(found.values()) == (by == "neither"), found


def test_without_egress_a_guest_is_reached_and_answers(world: int) -> None:
    """The node's question comes, and its answer goes; what else the guest tells its gateway, at any
    port, does not come. Nor does it learn whether others are there."""
    namespace = make_secluded_namespace(SLOT)
    with (
        closing(namespace),
        listener(namespace.fd, GATEWAY) as gateway,
        listener(namespace.fd, GATEWAY, PORT + 1) as asked,
    ):
        guest = guest_of(namespace)
        for address in (HOST, OTHER, TERRITORY.addresses(SLOT)[1], PUBLIC, "127.0.0.1"):
            assert not guest.is_answered(address)
        guest = guest_of(namespace)
        guest.say(b"uninvited", GATEWAY, PORT)
        asked.sendto(b"from the node", (GUEST_ADDRESS, 40_000))
        assert guest.hear() == (GATEWAY, b"from the node")
        guest.say(b"uninvited", GATEWAY, PORT)
        guest.say(b"answer", GATEWAY, PORT + 1)
        assert asked.recv(100) == b"answer"
        assert arrived(gateway) == arrived(asked) == []
        assert run_inside(namespace.fd, _links) == {"lo", TAP}
        assert run_inside(namespace.fd, _forwards) == "0"


def test_without_egress_a_guest_is_told_so_now_and_then() -> None:
    """Its programs do not wait for nothing; and a flood does not have the kernel answer for ever,
    which answers so many a second for all its namespaces."""
    namespace = make_secluded_namespace(SLOT)
    with closing(namespace):
        guest = guest_of(namespace)
        guest.say(b"out", PUBLIC, PORT)
        assert guest.refusals() == 1
        for number in range(FLOOD):
            guest.say(b"flood", PUBLIC, 20_000, from_port=1024 + number)
        assert guest.refusals() < FLOOD / 2


def test_answers_come_back_and_nothing_else(world: int) -> None:
    """What a guest asked is answered, through two translations; uninvited packets do not enter."""
    set_host_rules(outer_rules(Egress(), TERRITORY))
    with vm_namespace() as namespace, listener(world, PUBLIC) as public:
        guest = guest_of(namespace)
        guest.say(b"question", PUBLIC, PORT)
        text, sender = public.recvfrom(100)
        assert text == b"question"
        run_inside(world, lambda: _ip(f"route add {TERRITORY.subnet} via 203.0.113.1"))
        _ip("route add 172.31.255.2/32 via " + TERRITORY.addresses(SLOT)[1])
        public.sendto(b"uninvited", ("172.31.255.2", 40_000))
        public.sendto(b"uninvited", (TERRITORY.addresses(SLOT)[1], 40_000))
        public.sendto(b"answer", sender)
        assert guest.hear() == (PUBLIC, b"answer")


def test_without_egress_nothing_leaves_but_to_what_is_allowed(world: int) -> None:
    """Egress off, one private range allowed: that is reached, the internet is not."""
    egress = Egress(public=False, allow=("10.99.0.0/16",))
    set_host_rules(outer_rules(egress, TERRITORY))
    with (
        vm_namespace(egress) as namespace,
        listener(world, PUBLIC) as public,
        listener(world, PRIVATE) as private,
    ):
        guest = guest_of(namespace)
        guest.say(b"out", PUBLIC, PORT)
        guest.say(b"allowed", PRIVATE, PORT)
        assert private.recv(100) == b"allowed"
        assert arrived(public) == []


def test_a_guest_reaches_nothing_in_its_own_namespace(world: int) -> None:
    """Where the node dials from, the guest may answer and never ask."""
    set_host_rules(outer_rules(Egress(), TERRITORY))
    with (
        vm_namespace() as namespace,
        listener(namespace.fd, GATEWAY) as gateway,
        listener(world, PUBLIC) as public,
    ):
        guest = guest_of(namespace)
        guest.say(b"forbidden", GATEWAY, PORT)
        guest.say(b"allowed", PUBLIC, PORT)
        assert public.recv(100) == b"allowed"
        assert arrived(gateway) == []
        gateway.sendto(b"from the node", ("172.31.255.2", 40_000))
        assert guest.hear() == (GATEWAY, b"from the node")
        guest.say(b"answer", GATEWAY, PORT)
        assert gateway.recv(100) == b"answer"


@pytest.mark.parametrize(
    "make", [partial(make_vm_namespace, TERRITORY, egress=ALL), make_secluded_namespace]
)
def test_a_guest_is_one_neighbour_however_many_it_says_it_is(
    make: Callable[[int], Namespace],
) -> None:
    """The kernel's table of neighbours is one for the host and all guests."""
    with closing(make(SLOT)) as namespace:
        guest = guest_of(namespace)
        for number in range(200):
            guest.ask_as(f"11.0.0.{number}")
        assert not guest.is_answered(PUBLIC)
        assert run_inside(namespace.fd, _neighbours) == {GUEST_ADDRESS}


@pytest.mark.parametrize("down", ["none", "inner", "outer", "both"])
def test_thousands_of_connections_leave_room_for_a_neighbour(world: int, down: str) -> None:
    """Of what a guest opens, the host's table takes no more than it may have, with either wall; its
    neighbour opens connections as before, and what is open stays usable."""
    egress = Egress(connections=100, connections_per_s=1_000_000)
    set_host_rules(outer_rules(egress, TERRITORY))
    with (
        vm_namespace(egress) as namespace,
        vm_namespace(egress, NEIGHBOUR) as other,
        listener(world, PUBLIC) as public,
    ):
        take_down(namespace, down)
        set_host_rules(TRACKING)
        guest, neighbour = guest_of(namespace), guest_of(other)
        guest.say(b"first", PUBLIC, PORT)
        assert public.recv(100) == b"first"
        for number in range(FLOOD):
            guest.say(b"flood", PUBLIC, 20_000, from_port=1024 + number)
        guest.say(b"still there", PUBLIC, PORT)
        neighbour.say(b"neighbour", PUBLIC, PORT)
        assert [public.recv(100), public.recv(100)] == [b"still there", b"neighbour"]
        assert (tracked() <= 101) == (down != "both")


@pytest.mark.parametrize("down", ["none", "inner", "outer"])
def test_connections_are_opened_no_faster_than_allowed(world: int, down: str) -> None:
    """A burst beyond the rate opens nothing, with either wall; one that was opened may send at any
    rate, answered or not."""
    egress = Egress(connections=1_000_000, connections_per_s=2)
    set_host_rules(outer_rules(egress, TERRITORY))
    with vm_namespace(egress) as namespace, listener(world, PUBLIC) as public:
        take_down(namespace, down)
        set_host_rules(TRACKING)
        guest = guest_of(namespace)
        for _ in range(100):
            guest.say(b"one way", PUBLIC, PORT)
            assert public.recv(100) == b"one way"
        for number in range(FLOOD):
            guest.say(b"flood", PUBLIC, 20_000, from_port=1024 + number)
        assert tracked() < FLOOD / 2


def test_connections_of_a_build_are_bounded(world: int) -> None:
    """What runs in a build's namespace itself opens no more than a guest may."""
    egress = Egress(connections=100, connections_per_s=1_000_000)
    set_host_rules(outer_rules(Egress(connections_per_s=1_000_000), TERRITORY))
    namespace = make_build_namespace(TERRITORY, SLOT, egress)

    def flood() -> None:
        for _ in range(FLOOD):
            with (
                socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one,
                suppress(PermissionError),
            ):
                one.sendto(b"flood", (PUBLIC, 20_000))

    run_inside(namespace.fd, flood)
    namespace.close()
    assert 50 < tracked() <= 100


def test_connections_go_with_their_namespace(world: int) -> None:
    """What a VM left open is not counted for the next one in its place, nor for ever in the host's
    table; others' connections stay."""
    egress = Egress(connections=100, connections_per_s=1_000_000)
    set_host_rules(outer_rules(egress, TERRITORY))
    with vm_namespace(egress, NEIGHBOUR) as other, listener(world, PUBLIC) as public:
        guest_of(other).say(b"neighbour", PUBLIC, PORT)
        assert public.recv(100) == b"neighbour"
        for _ in range(2):
            with vm_namespace(egress) as namespace:
                guest = guest_of(namespace)
                for number in range(FLOOD):
                    guest.say(b"flood", PUBLIC, 20_000, from_port=1024 + number)
                assert 50 < tracked() <= 101
            unplug(TERRITORY, SLOT)
            assert tracked() == 1


def test_a_namespace_goes_with_who_holds_it() -> None:
    """Descriptor or tap keep it, and the tap leads to it; without both nothing of it is left."""
    namespace = make_vm_namespace(TERRITORY, SLOT, Egress())
    name = host_end_name(TERRITORY, SLOT)
    assert namespace.tap is not None
    with subprocess.Popen(["sleep", "600"], pass_fds=(namespace.tap,)) as process:
        namespace.close()
        adopted = adopt_namespace(SLOT, process.pid)
        assert run_inside(adopted.fd, _links) == {"lo", "uplink", "tap0"}
        process.kill()
    assert name in _links()
    assert run_inside(adopted.fd, _links) == {"lo", "uplink"}
    adopted.close()
    deadline = time.monotonic() + 60
    while name in _links():
        assert time.monotonic() < deadline


def test_a_closed_namespace_is_none(world: int) -> None:
    """The number of its descriptor may be another's by then, so it is forgotten."""
    namespace = make_vm_namespace(TERRITORY, SLOT, Egress())
    fd = namespace.fd
    namespace.close()
    reused = os.dup2(world, fd)
    with pytest.raises(OSError, match="setns"):
        run_inside(namespace.fd, _links)
    namespace.close()
    assert os.fstat(reused)
    os.close(reused)


@pytest.mark.parametrize("make", [make_vm_namespace, make_build_namespace])
def test_one_that_cannot_be_made_leaves_nothing(
    make: Callable[[Territory, int, Egress], Namespace],
) -> None:
    """Rules that nft refuses: an error with its words, no link, no descriptor."""
    before = count_open_files()
    with pytest.raises(OSError, match="nft refused"):
        make(TERRITORY, SLOT, Egress(allow=("nonsense",)))
    assert _links() == {"lo"}
    assert count_open_files() == before


def _ip(words: str) -> None:
    subprocess.run(["ip", *words.split()], check=True, capture_output=True)


def _neighbours() -> set[str]:
    listed = subprocess.run(["ip", "neigh"], check=True, capture_output=True, text=True)
    return {line.split()[0] for line in listed.stdout.splitlines()}


def _forwards() -> str:
    return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()


def _links() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def test_links_that_a_killed_node_left_are_removed() -> None:
    """Though a process is still in their namespace; those of machines that go on stay."""
    with ExitStack() as stack:
        for territory, slot in ((TERRITORY, SLOT), (TERRITORY, NEIGHBOUR), (Territory(6), SLOT)):
            namespace = make_build_namespace(territory, slot, ALL)
            stack.callback(namespace.close)
        unplug_left(TERRITORY, {NEIGHBOUR}.__contains__)
        left = {name for _, name in socket.if_nameindex()}
        assert host_end_name(TERRITORY, SLOT) not in left
        assert {host_end_name(TERRITORY, NEIGHBOUR), host_end_name(Territory(6), SLOT)} <= left
