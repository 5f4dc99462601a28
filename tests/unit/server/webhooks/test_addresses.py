"""Which addresses webhooks may go to."""

import ipaddress
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.addresses import PLATFORM
from cakework.server.webhooks.addresses import Guard, NotAllowed, is_own, parse_allowed, plain
from cakework.server.webhooks.loop import WAITS_S, wait_ms

OF_A_HOST = """
ip link add outward type veth peer name inward
ip link set inward up
ip link set outward up
ip address add 9.9.9.9/32 dev outward
ip address add 2620:fe::fe/128 dev outward nodad
exec "$@"
"""
"""Becomes a host that has two public addresses, in a network namespace of its own."""
CHECKED = """
from cakework.server.webhooks.addresses import Guard, NotAllowed
for address in ("9.9.9.9", "9.9.9.10", "::ffff:9.9.9.9", "1.1.1.1", "2620:fe::fe", "2620:fe::9"):
    try:
        Guard().check(address, 443, encrypted=True)
        print("passes")
    except NotAllowed:
        print("own")
"""


@given(address=st.ip_addresses())
def test_what_is_let_pass_is_global_and_for_one_receiver(address: object) -> None:
    """Of all addresses, in plain spelling and mapped into IPv6."""
    spelled = [str(address)] if ":" in str(address) else [str(address), f"::ffff:{address}"]
    for text in spelled:
        try:
            Guard().check(text, 443, encrypted=True)
        except NotAllowed:
            continue
        assert plain(text).is_global
        assert not plain(text).is_multicast


@pytest.mark.parametrize("network", PLATFORM)
def test_addresses_of_clouds_are_refused(network: str) -> None:
    """The first and the last of each range, also those that look public; IPv4 as IPv6, too."""
    refused = ipaddress.ip_network(network)
    for address in (refused[0], refused[-1]):
        spelled = [str(address)] if address.version == 6 else [str(address), f"::ffff:{address}"]
        for text in spelled:
            with pytest.raises(NotAllowed, match="public"):
                Guard().check(text, 443, encrypted=True)
            Guard(parse_allowed([network])).check(text, 443, encrypted=True)


def test_public_addresses_pass_over_https_alone() -> None:
    """IPv4 and IPv6; without TLS they are refused."""
    for address in ("1.1.1.1", "2606:4700:4700::1111"):
        Guard().check(address, 443, encrypted=True)
        with pytest.raises(NotAllowed, match="https"):
            Guard().check(address, 80, encrypted=False)


def test_the_hosts_own_addresses_are_known() -> None:
    """Every address that a name of this host has, and none of another's."""
    for found in socket.getaddrinfo("localhost", None):
        assert is_own(plain(str(found[4][0])))
    assert not is_own(plain("192.0.2.1"))


def test_public_addresses_of_the_host_are_refused() -> None:
    """Those of any interface, in either family; the next ones to them pass."""
    told = subprocess.run(
        ["unshare", "--net", "sh", "-euc", OF_A_HOST, "sh", sys.executable, "-c", CHECKED],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout.split() == ["own", "passes", "own", "passes", "own", "passes"]


@pytest.mark.parametrize(
    ("word", "address", "port"),
    [
        ("10.0.0.0/8", "10.1.2.3", 80),
        ("127.0.0.1:9000", "127.0.0.1", 9000),
        ("127.0.0.1", "::ffff:127.0.0.1", 1),
        ("[::1]:9000", "::1", 9000),
        ("fd00::/8", "fd00::1", 80),
    ],
)
def test_what_the_setting_names_passes_and_nothing_beside_it(
    word: str, address: str, port: int
) -> None:
    """Also without TLS; another port, where it names one, does not."""
    guard = Guard(parse_allowed([word]))
    guard.check(address, port, encrypted=False)
    with pytest.raises(NotAllowed):
        guard.check("192.168.0.1", port, encrypted=True)
    if port == 9000:
        with pytest.raises(NotAllowed):
            guard.check(address, 9001, encrypted=True)


@pytest.mark.parametrize("word", ["x", "127.0.0.1:x", "[::1", "10.0.0.1/8", "example.com:80"])
def test_what_is_no_range_is_refused_by_name(word: str) -> None:
    """The error says which word of the setting it is."""
    with pytest.raises(ValueError, match="webhook_allow: "):
        parse_allowed([word])


def test_waits_are_spread_by_a_tenth() -> None:
    """So that receivers that come back are not met by everyone at once."""
    for attempt, wait_s in enumerate(WAITS_S, 1):
        found = {wait_ms(attempt) for _ in range(50)}
        assert len(found) > 1
        assert all(0.9 * wait_s * 1000 - 1 <= each <= 1.1 * wait_s * 1000 for each in found)
