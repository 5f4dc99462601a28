"""What a guest can reach: the world, and nothing of the host, of others, or of private networks.

Everything that must not be reached has a listener behind it, which the host itself does reach,
so it is the wall that holds the guest back and not that nobody is there.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager

import pytest

from cakework.node.network.namespaces import GATEWAY
from tests.acceptance import guests
from tests.acceptance.api import Api
from tests.acceptance.footprint import machine_of, slot_addresses
from tests.acceptance.outside import PUBLIC, REACHED_BY_SETTING, WALLED_OFF, Outside, outside
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

Target = tuple[str, int]


@pytest.fixture(scope="module")
def world() -> Iterator[Outside]:
    """A network beyond the host, with addresses of every kind."""
    with outside() as world:
        yield world


def tried(api: Api, python: str, targets: list[Target]) -> dict[Target, bool]:
    """Return which of ``targets`` a guest of its own reaches."""
    env = {"SCRIPT": guests.CONNECT, "TARGETS": json.dumps(targets)}
    with api.running(python, envVars=env) as vm:
        printed = api.wait_for_line(vm["id"], "tried all", 30 + 3 * len(targets))
    outcome = dict(line.split(" ") for line in printed[:-1])
    return {(host, port): outcome[f"{host}:{port}"] == "reached" for host, port in targets}


def test_networks_beyond_the_host(api: Api, python: str, world: Outside) -> None:
    """Public addresses are reached, and a private range that a setting allows; no other."""
    reached = [PUBLIC, REACHED_BY_SETTING]
    targets = [(host, world.port) for host in [*reached, *WALLED_OFF]]
    for target in targets:
        socket.create_connection(target, 5).close()
    found = tried(api, python, targets)
    assert {host for (host, _), yes in found.items() if yes} == set(reached)


def test_the_host_itself(platform: Platform, api: Api, python: str, world: Outside) -> None:
    """No address that the host has is reached, its API and its slots' ends included."""
    api_port = int(platform.url.rpartition(":")[2])
    with socket.create_server(("0.0.0.0", 0)) as listener:
        port = listener.getsockname()[1]
        targets = [(address, port) for address in host_addresses()]
        for target in targets:
            socket.create_connection(target, 5).close()
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
            until(lambda: len(api.printed(vm["id"])) > tries + 3, 30, "more tries are made")
        assert set(api.printed(vm["id"])) == {"waiting", "not reached"}


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


def host_addresses() -> list[str]:
    """Return the host's IPv4 addresses other than loopback's."""
    listed = subprocess.run(
        ["ip", "-4", "-json", "address", "show", "up"], check=True, capture_output=True
    )
    return [
        str(info["local"])
        for link in json.loads(listed.stdout)
        for info in link["addr_info"]
        if link["ifname"] != "lo"
    ]


@contextmanager
def listening_beside(machine: int) -> Generator[None]:
    """Listen on port 8000 in a machine's network namespace, where its gateway is."""
    enter = ["nsenter", f"--target={machine}", "--net", sys.executable, "-c", guests.LISTEN]
    with subprocess.Popen([*enter, GATEWAY], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"listening\n"
            yield
        finally:
            process.kill()
