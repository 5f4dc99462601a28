"""What functions reach: the world, or nothing outside their VMs, whatever root in one does.

Everything that a function tries has a listener behind it, which it reaches with egress where the
platform's own walls let it, so it is the setting that holds it back.
"""

import json
import secrets
import socket
from collections.abc import Iterator

import pytest

from tests.acceptance import guests
from tests.acceptance.api import Api, Json
from tests.acceptance.footprint import slot_addresses
from tests.acceptance.functions import made
from tests.acceptance.outside import (
    BACKLOG,
    PUBLIC,
    REACHED_BY_SETTING,
    WALLED_OFF,
    Outside,
    outside,
)
from tests.acceptance.platform import Platform
from tests.acceptance.test_function_urls import visit
from tests.acceptance.test_isolation import host_addresses, reached_by_host
from tests.acceptance.waiting import until

pytestmark = pytest.mark.timeout(1800)
REACHED = {PUBLIC, REACHED_BY_SETTING}
CODE = """\
import concurrent.futures, fcntl, json, os, socket, struct, subprocess, uuid

GATEWAY = "172.31.255.1"

def by_tcp(host, port, mark):
    socket.create_connection((host, port), 5).close()

def by_udp(host, port, mark):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        one.settimeout(2)
        one.connect((host, port))
        for attempt in range(2):
            one.send(mark)
            try:
                return one.recv(100)
            except TimeoutError:
                pass
        raise TimeoutError

def by_ipv6(host, port, mark):
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as one:
        one.connect((host, port))
        one.send(mark)

def by_name(host, port, mark):
    socket.getaddrinfo(host, port)

def tried(how, targets, mark):
    def outcome(target):
        try:
            how(*target, mark)
        except OSError:
            return None
        return target[0]
    with concurrent.futures.ThreadPoolExecutor(16) as threads:
        return sorted({host for host in threads.map(outcome, targets) if host})

def checksum(head):
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF)

def datagram(source, host, port, mark):
    udp = struct.pack("!4H", 40000, port, 8 + len(mark), 0) + mark
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 1, 0, 64, 17, 0)
    head += socket.inet_aton(source) + socket.inet_aton(host)
    return head[:10] + checksum(head) + head[12:] + udp

def link_of_gateway():
    with open("/proc/net/arp") as table:
        for line in table:
            if line.startswith(GATEWAY):
                return bytes.fromhex(line.split()[3].replace(":", ""))
    return b"\\xff" * 6

def raw(targets, mark):
    # Frames as a kernel of its own would send them: as somebody else, to anybody.
    sent = 0
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("eth0", 0x0800))
        own = link.getsockname()[4]
        for host, port in targets:
            for source in ("172.31.255.2", GATEWAY, "10.201.0.9", "11.77.77.9"):
                for mac in (own, b"\\x02\\x63\\x77\\x99\\x99\\x99"):
                    for to in (link_of_gateway(), b"\\xff" * 6):
                        packet = datagram(source, host, port, mark)
                        sent += link.send(to + mac + b"\\x08\\x00" + packet) > 0
    return sent

def others(targets):
    # Who answers, when asked for an address?
    found = set()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as link:
        link.bind(("eth0", 0x0806))
        link.settimeout(1)
        own = link.getsockname()[4]
        for host in [GATEWAY, *targets]:
            ask = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1) + own + socket.inet_aton("172.31.255.2")
            ask += b"\\0" * 6 + socket.inet_aton(host)
            link.send((b"\\xff" * 6 + own + b"\\x08\\x06" + ask).ljust(60, b"\\0"))
        try:
            while True:
                frame = link.recv(100)
                if frame[20:22] == b"\\0\\x02":
                    found.add(socket.inet_ntoa(frame[28:32]))
        except TimeoutError:
            return sorted(found)

def rewire():
    # Its own address, link address and routes: what the guest's root may not, fails.
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        for request, value in (
            (0x8924, struct.pack("16sH6s8x", b"eth0", 1, b"\\x02\\x63\\x77\\x99\\x99\\x99")),
            (0x8916, struct.pack("16sHH4s8x", b"eth0", 2, 0, socket.inet_aton("10.201.0.9"))),
        ):
            try:
                fcntl.ioctl(one, request, value)
            except OSError:
                pass
    for path in ("ipv4/ip_forward", "ipv6/conf/eth0/disable_ipv6"):
        try:
            with open(f"/proc/sys/net/{path}", "w") as switch:
                switch.write("0")
        except OSError:
            pass

def all_tried(targets, mark, names=()):
    mark = mark.encode()
    return {
        "uid": os.getuid(),
        "tcp": tried(by_tcp, targets, mark),
        "udp": tried(by_udp, targets, mark),
        "dns": tried(by_udp, [(host, 53) for host, _ in targets], mark),
        "ipv6": tried(by_ipv6, [("2001:db8::1", 9), ("fd00::1", 9), ("fd00::2", 9)], mark),
        "names": tried(by_name, names, mark),
    }

TARGETS = json.loads(os.environ["TARGETS"])
IMPORT_MARK = uuid.uuid4().hex
# In the time that an import may take.
AT_IMPORT = all_tried(TARGETS[:3], IMPORT_MARK)

def handler(event, context):
    mark = event["data"]
    found = all_tried(TARGETS, mark, [("example.com", 80)])
    rewire()
    try:
        raw(TARGETS, mark.encode())
        by_hand = others([host for host, _ in TARGETS])
    except PermissionError:
        # Its user may not. What others could: tests/integration/node/test_namespaces.py.
        by_hand = None
    return {
        "import": AT_IMPORT, "importMark": IMPORT_MARK, "found": found, "byHand": by_hand,
        "again": all_tried(TARGETS, mark),
    }

def http(request):
    return {"tcp": tried(by_tcp, TARGETS[:3], b"")}
"""


@pytest.fixture(scope="module")
def world() -> Iterator[Outside]:
    """A network beyond the host, with addresses of every kind."""
    with outside() as world:
        yield world


def served(api: Api, function_id: str, mark: str) -> Json:
    """Return what an instance found."""
    done = api.http.post(
        f"/v1/functions/{function_id}/invoke", json={"data": mark, "mode": "async"}
    )
    path = f"/v1/invocations/{done.json()['id']}"
    ended = until(lambda: over(api.get(path, wait=20)), 400, "the invocation has ended")
    assert ended["state"] == "succeeded", ended
    return ended["result"]


def over(invocation: Json) -> Json | None:
    return None if invocation["state"] in ("queued", "running", "waiting") else invocation


def reached(found: Json) -> set[str]:
    """Return all that was reached by any means."""
    return {host for how, hosts in found.items() if how != "uid" for host in hosts}


def test_what_a_function_reaches_is_its_setting(
    platform: Platform, busybox: str, world: Outside
) -> None:
    """With egress the public address and what a setting of the platform's allows; without it
    nothing: by TCP, UDP, names, IPv6, frames made by hand, with addresses and routes of another, at
    import or in a handler. Either way it answers, to invocations and at its URL; a change goes for
    all that is made after it."""
    web = {"SCRIPT": guests.WEB, "NAME": "other"}
    with (
        platform.api() as api,
        socket.create_server(("0.0.0.0", 0), backlog=BACKLOG) as listener,
        api.running(busybox, port=8000, envVars=web) as other,
    ):
        assert api.visit_when_up(other).text == "hello from other\n"
        port = listener.getsockname()[1]
        beyond = [(host, world.port) for host in (PUBLIC, REACHED_BY_SETTING, *WALLED_OFF)]
        targets = reached_by_host([*beyond, *((host, port) for host in host_addresses())])
        targets += [(host, 8000) for host in slot_addresses(platform)]
        variables = {"TARGETS": json.dumps(targets)}
        function_id = made(
            *(api, "reaches", CODE),
            isolation="invocation",
            timeout=300,
            envVars=variables,
        )
        path = f"/v1/functions/{function_id}"
        try:
            function = api.get(path)
            for egress in ("internet", "none"):
                changed = api.http.patch(path, json={"settings": {"egress": egress}})
                assert changed.json()["settings"]["egress"] == egress
                may = REACHED if egress == "internet" else set[str]()
                mark = secrets.token_hex(8)
                found = served(api, function_id, mark)
                for tries in (found["import"], found["found"], found["again"]):
                    assert reached(tries) - {"example.com"} == may, found
                if egress == "none":
                    assert found["found"]["names"] == [], found
                    # Of who has an address the other end of its own link is all that answers.
                    assert found["byHand"] in (None, ["172.31.255.1"]), found
                marks = (mark, found["importMark"])
                heard = {host for mark in marks for host in world.heard(mark.encode())}
                assert heard == may
                answer = visit(api, function, "/")
                assert answer.status_code == 200, answer.text
                assert set(answer.json()["tcp"]) == may
        finally:
            api.http.delete(path)
