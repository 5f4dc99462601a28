"""What a guest can reach: the world, and nothing of the host, of others, or of private networks.

Everything that must not be reached has a listener behind it, which the host itself does reach,
so it is the wall that holds the guest back and not that nobody is there.
"""

import errno
import json
import secrets
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from cakework.node.network.namespaces import GATEWAY, adopt_namespace
from tests.acceptance import guests
from tests.acceptance.api import Api
from tests.acceptance.footprint import machine_of, slot_addresses
from tests.acceptance.outside import (
    BACKLOG,
    DNS_PORT,
    PUBLIC,
    REACHED_BY_SETTING,
    WALLED_OFF,
    Outside,
    outside,
)
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

Target = tuple[str, int]
pytestmark = pytest.mark.timeout(1800)
"""Other runs on this host are waited for: one at a time has a world beyond it."""


@pytest.fixture(scope="module")
def world() -> Iterator[Outside]:
    """A network beyond the host, with addresses of every kind."""
    with outside() as world:
        yield world


def tried(api: Api, python: str, targets: list[Target]) -> dict[Target, bool]:
    """Return which of ``targets`` a guest of its own reaches."""
    env = {"SCRIPT": guests.CONNECT, "TARGETS": json.dumps(targets)}
    with api.running(python, envVars=env) as vm:
        printed = api.wait_for_line(vm["id"], "tried all", 120 + 3 * len(targets))
    return outcome_in(printed, targets)


def tried_by_build(api: Api, targets: list[Target]) -> dict[Target, bool]:
    """Return which of ``targets`` a RUN of a build reaches."""
    env = {"SCRIPT": guests.CONNECT, "TARGETS": json.dumps(targets)}
    dockerfile = "FROM cakework/python\nCOPY . /\nRUN python3 /try.py"
    build = api.build(dockerfile, {"try.py": with_environment(env)})
    printed = api.messages(f"/v1/image/build/{build['buildId']}/logs")
    assert "tried all" in printed, printed
    return outcome_in(printed, targets)


def outcome_in(printed: list[str], targets: list[Target]) -> dict[Target, bool]:
    outcome = dict(line.split(" ") for line in printed if line.count(" ") == 1)
    return {(host, port): outcome[f"{host}:{port}"] == "reached" for host, port in targets}


def test_networks_beyond_the_host(api: Api, python: str, world: Outside) -> None:
    """Public addresses are reached, and a private range that a setting allows; no other."""
    reached = [PUBLIC, REACHED_BY_SETTING]
    targets = reached_by_host([(host, world.port) for host in [*reached, *WALLED_OFF]])
    found = tried(api, python, targets)
    assert {host for (host, _), yes in found.items() if yes} == set(reached)


def test_what_a_build_reaches(platform: Platform, api: Api, world: Outside) -> None:
    """By TCP, a RUN of a build reaches what a guest does: no private range but one that a setting
    allows, no address for metadata, none that the host has, where all have a listener."""
    reached = [PUBLIC, REACHED_BY_SETTING]
    api_port = int(platform.url.rpartition(":")[2])
    with socket.create_server(("0.0.0.0", 0), backlog=BACKLOG) as listener:
        port = listener.getsockname()[1]
        beyond = [(host, world.port) for host in (*reached, *WALLED_OFF)]
        own = [(address, port) for address in (*host_addresses(), "127.0.0.1")]
        targets = reached_by_host([*beyond, *own, ("127.0.0.1", api_port)])
        found = tried_by_build(api, targets)
    assert {host for (host, _), yes in found.items() if yes} == set(reached)


def test_the_host_itself(platform: Platform, api: Api, python: str, world: Outside) -> None:
    """No address that the host has is reached, its API and its slots' ends included."""
    api_port = int(platform.url.rpartition(":")[2])
    with socket.create_server(("0.0.0.0", 0), backlog=BACKLOG) as listener:
        port = listener.getsockname()[1]
        targets = reached_by_host([(address, port) for address in host_addresses()])
        found = tried(api, python, [*targets, ("127.0.0.1", api_port), ("localhost", api_port)])
    assert [target for target, yes in found.items() if yes] == []


def test_other_vms(platform: Platform, api: Api, python: str, busybox: str) -> None:
    """A VM that serves is reached by the router and by no other VM."""
    web = {"SCRIPT": guests.WEB, "NAME": "other"}
    with api.running(busybox, port=8000, envVars=web) as other:
        assert api.visit_when_up(other).text == "hello from other\n"
        targets = [(address, 8000) for address in slot_addresses(platform)]
        found = tried(api, python, targets)
    assert [target for target, yes in found.items() if yes] == []


def test_the_gateway_with_somebody_listening_there(
    platform: Platform, api: Api, python: str
) -> None:
    """The host's side of a VM's network is shut to the VM, whatever listens there."""
    with api.running(python, envVars={"SCRIPT": guests.KEEP_TRYING}) as vm:
        api.wait_for_line(vm["id"], "waiting")
        with listening_beside(machine_of(platform, vm["id"])):
            tries = len(api.printed(vm["id"]))
            until(lambda: len(api.printed(vm["id"])) > tries + 3, 60, "more tries are made")
        assert set(api.printed(vm["id"])) == {"waiting", "not reached"}


def test_datagrams_to_networks_beyond_the_host(api: Api, python: str, world: Outside) -> None:
    """By UDP the same is reached as by TCP, and no more, at the port of resolvers as at another;
    what is not reached does not even get the datagram. So it is for a RUN of a build."""
    reached = {PUBLIC, REACHED_BY_SETTING}
    targets = [(host, port) for host in (*reached, *WALLED_OFF) for port in (world.port, DNS_PORT)]
    assert sent_by_host(targets) == set(targets)
    for send in (sent_by_guest, sent_by_build):
        mark = secrets.token_hex(8)
        assert {host for host, _ in send(api, python, targets, mark, reached)} == reached
        assert world.heard(mark.encode()) == reached


def test_datagrams_to_the_host_and_its_resolvers(api: Api, python: str, world: Outside) -> None:
    """None arrives at any address of the host, or is answered by the resolvers that it uses."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listener:
        listener.bind(("0.0.0.0", 0))
        listener.settimeout(30)
        port = listener.getsockname()[1]
        own = [(address, port) for address in (*host_addresses(), "127.0.0.1")]
        for target in [*own]:
            try:
                listener.sendto(b"host", target)
                assert listener.recv(100) == b"host"
            except OSError:
                assert is_gone(target)
                own.remove(target)
        targets = [*own, *((resolver, DNS_PORT) for resolver in resolvers())]
        for send in (sent_by_guest, sent_by_build):
            assert send(api, python, targets, secrets.token_hex(8), set()) == set()
        listener.setblocking(False)
        with pytest.raises(BlockingIOError):
            listener.recv(100)


def test_datagrams_to_other_vms(platform: Platform, api: Api, python: str) -> None:
    """A VM that listens hears itself, and none of what another sends to every VM's address."""
    with api.running(python, port=8000, envVars={"SCRIPT": guests.HEAR_DATAGRAMS}) as other:
        api.wait_for_line(other["id"], "heard itself")
        targets = [(address, 8000) for address in slot_addresses(platform)]
        assert targets
        assert sent_by_guest(api, python, targets, secrets.token_hex(8), set()) == set()
        assert api.printed(other["id"]) == ["heard itself"]


def test_there_is_no_ipv6(platform: Platform, api: Api, python: str) -> None:
    """Neither in a guest, nor in the namespace around it, nor in a build: no link has an address,
    and nothing can be sent, not even to an address that the host's own network has."""
    host = [address for address in inet6_addresses(["ip"]) if not address.startswith("fe80")]
    hosts = [*host, "fd00::1", "2001:db8::1"]
    env = {"SCRIPT": guests.IPV6, "TARGETS": json.dumps([(host, 9) for host in hosts])}
    with api.running(python, envVars=env) as vm:
        printed = api.wait_for_line(vm["id"], "tried all")
    unreachable = [f"{host} {errno.ENETUNREACH}" for host in hosts for _ in range(2)]
    assert printed == ["links with IPv6:", *unreachable, "tried all"]
    with api.running(python, envVars={"SCRIPT": "import time; time.sleep(1000)"}) as vm:
        with network_of(machine_of(platform, vm["id"])) as network:
            enter = ["nsenter", f"--net={network}"]
            assert inet6_addresses([*enter, "ip"]) == []
            rules = subprocess.run([*enter, "nft", "list", "ruleset", "ip6"], capture_output=True)
        assert rules.stdout.count(b"policy drop") == rules.stdout.count(b"type filter") == 2
    dockerfile = "FROM cakework/python\nCOPY . /\nRUN python3 /try.py"
    build = api.build(dockerfile, {"try.py": with_environment(env)})
    log = api.messages(f"/v1/image/build/{build['buildId']}/logs")
    unavailable = [f"{host} {errno.EADDRNOTAVAIL}" for host in hosts for _ in range(2)]
    assert [line for line in log if line.startswith(("links", *hosts))] == [
        "links with IPv6:",
        *unavailable,
    ]


def test_the_hosts_files_and_sockets_are_not_there(
    platform: Platform, api: Api, busybox: str
) -> None:
    """Neither the node's socket nor anything else of the host's disk is visible inside."""
    script = f"ls -a {platform.data_dir}; ls /; cat /proc/mounts; echo looked"
    with api.running(busybox, envVars={"SCRIPT": script}) as vm:
        printed = "\n".join(api.wait_for_line(vm["id"], "looked"))
    assert "No such file or directory" in printed
    assert "node.sock" not in printed
    assert "9p" not in printed
    assert "virtiofs" not in printed


def sent_by_host(targets: list[Target]) -> set[Target]:
    """Return from which of ``targets`` an answer to a datagram comes to the host."""
    answered: set[Target] = set()
    for target in targets:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.settimeout(60)
            sender.sendto(b"host", target)
            answered.add(sender.recvfrom(100)[1])
    return answered


def sent_by_guest(
    api: Api, python: str, targets: list[Target], mark: str, awaited: set[str]
) -> set[Target]:
    """Have a guest send datagrams with ``mark`` to ``targets``; return which were answered. Hosts
    that are ``awaited`` have longer to answer."""
    env = sending(targets, mark, awaited)
    with api.running(python, envVars=env) as vm:
        return answered_in(api.wait_for_line(vm["id"], "tried all"), targets)


def sent_by_build(
    api: Api, _python: str, targets: list[Target], mark: str, awaited: set[str]
) -> set[Target]:
    """Have a RUN of a build send them."""
    env = sending(targets, mark, awaited)
    dockerfile = "FROM cakework/python\nCOPY . /\nRUN python3 /try.py"
    build = api.build(dockerfile, {"try.py": with_environment(env)})
    printed = api.messages(f"/v1/image/build/{build['buildId']}/logs")
    assert "tried all" in printed, printed
    return answered_in(printed, targets)


def sending(targets: list[Target], mark: str, awaited: set[str]) -> dict[str, str]:
    """Return the environment of a program that sends datagrams."""
    awaits = {"TARGETS": json.dumps(targets), "AWAITED": json.dumps(sorted(awaited))}
    return {"SCRIPT": guests.DATAGRAMS, "MARK": mark, **awaits}


def answered_in(printed: list[str], targets: list[Target]) -> set[Target]:
    outcome = {(host, port): f"{host} {port} reached" in printed for host, port in targets}
    assert all(
        f"{host} {port} silent" in printed for (host, port), yes in outcome.items() if not yes
    )
    return {target for target, yes in outcome.items() if yes}


def with_environment(env: dict[str, str]) -> str:
    """Return a program that runs SCRIPT as a guest's image does."""
    return f"import os\nos.environ.update({env!r})\nexec(os.environ['SCRIPT'])\n"


def resolvers() -> list[str]:
    """Return the addresses of the resolvers that the host uses."""
    words = (line.split() for line in Path("/etc/resolv.conf").read_text().splitlines())
    return [word[1] for word in words if word[:1] == ["nameserver"] and ":" not in word[1]]


def inet6_addresses(ip: list[str]) -> list[str]:
    """Return the IPv6 addresses that ``ip`` shows, other than loopback's."""
    listed = subprocess.run([*ip, "-6", "-json", "address"], check=True, capture_output=True)
    return [
        str(info["local"])
        for link in json.loads(listed.stdout or "[]")
        for info in link.get("addr_info", ())
        if link["ifname"] != "lo"
    ]


def host_addresses() -> list[str]:
    """Return the host's IPv4 addresses other than loopback's."""
    listed = subprocess.run(
        ["ip", "-4", "-json", "address", "show", "up"], check=True, capture_output=True
    )
    return [
        str(info["local"])
        for link in json.loads(listed.stdout)
        # Of a link that goes while it is listed, nothing is told.
        for info in link.get("addr_info", ())
        if link["ifname"] != "lo"
    ]


def reached_by_host(targets: list[Target]) -> list[Target]:
    """Return those that the host itself reaches, which are all but those whose address has gone
    meanwhile: other runs on this host have VMs that come and go."""
    reached: list[Target] = []
    for target in targets:
        try:
            socket.create_connection(target, 30).close()
            reached.append(target)
        except OSError:
            assert is_gone(target), target
    return reached


def is_gone(target: Target) -> bool:
    """Return whether no link of the host, but the loopback, has a target's address any more."""
    own = {PUBLIC, REACHED_BY_SETTING, *WALLED_OFF, "127.0.0.1", *host_addresses()}
    return target[0] not in own


@contextmanager
def network_of(machine: int) -> Generator[str]:
    """Give a path by which a VM's network namespace, the one of its tap, is entered."""
    namespace = adopt_namespace(0, machine)
    try:
        yield namespace.path
    finally:
        namespace.close()


@contextmanager
def listening_beside(machine: int) -> Generator[None]:
    """Listen on port 8000 in a machine's network namespace, where its gateway is."""
    with ExitStack() as stack:
        network = stack.enter_context(network_of(machine))
        enter = ["nsenter", f"--net={network}", sys.executable, "-c", guests.LISTEN, GATEWAY]
        process = stack.enter_context(subprocess.Popen(enter, stdout=subprocess.PIPE))
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening\n"
            yield
        finally:
            process.kill()
