"""Packet filter rules, read by nft itself."""

import ipaddress
import re
import subprocess

import pytest

from cakework.domain.addresses import NOT_PUBLIC, PLATFORM
from cakework.node.network.names import reachable
from cakework.node.network.rules import (
    Egress,
    inner_rules,
    local_rules,
    no_rules,
    outer_rules,
    secluded_rules,
)
from cakework.node.territory import Territory

EGRESSES = [
    Egress(),
    Egress(public=False),
    Egress(allow=("10.9.0.0/16", "192.168.7.1")),
    Egress(public=False, allow=("10.9.0.0/16",)),
]


@pytest.mark.parametrize("egress", EGRESSES)
def test_nft_takes_every_script(egress: Egress) -> None:
    """Whatever the settings, the rules are rules."""
    territory = Territory(3)
    scripts = [
        inner_rules(egress, "172.31.255.2", "tap0", "uplink"),
        local_rules(egress, "uplink"),
        outer_rules(egress, territory),
        no_rules(territory),
        secluded_rules("172.31.255.2", "172.31.255.1", "tap0"),
    ]
    for script in scripts:
        nft = ["/usr/sbin/nft", "--check", "-f", "-"]
        done = subprocess.run(nft, input=script, text=True, capture_output=True)
        assert not done.returncode, done.stderr


def test_ranges_that_are_not_public() -> None:
    """Every address that is not globally reachable is in a range that is refused."""
    networks = [ipaddress.IPv4Network(word) for word in NOT_PUBLIC]
    refused = (
        "10.0.0.1 172.16.0.1 172.31.255.1 192.168.1.1 127.0.0.1 169.254.169.254 100.64.0.1 "
        "0.0.0.0 224.0.0.1 255.255.255.255 198.18.0.1 10.201.0.1 "
        # Of clouds, and some of them in public ranges.
        "168.63.129.16 161.26.0.10 166.9.1.1 100.100.100.200 192.0.0.192 169.254.170.2"
    )
    for word in refused.split():
        assert any(ipaddress.IPv4Address(word) in network for network in networks), word
    passing = (
        "1.1.1.1 8.8.8.8 172.32.0.1 100.128.0.1 192.169.0.1 11.0.0.1 168.63.129.15 168.63.129.17 "
        "161.25.255.255 161.27.0.0 166.7.255.255 166.12.0.0"
    )
    for word in passing.split():
        assert not any(ipaddress.IPv4Address(word) in network for network in networks), word


def test_every_wall_has_the_addresses_of_clouds() -> None:
    """Whole ranges of the list, in each script, and in what builds' resolver keeps to itself."""
    everything = Egress()
    for platform in map(ipaddress.ip_network, PLATFORM):
        if isinstance(platform, ipaddress.IPv6Network):
            continue
        assert not reachable(str(platform[0]), ())
        assert reachable(str(platform[0]), [platform])
        for script in (
            inner_rules(everything, "172.31.255.2", "tap0", "uplink"),
            local_rules(everything, "uplink"),
            outer_rules(everything, Territory(0)),
        ):
            listed = re.search(r"ip daddr \{ ([^}]*) \} (?:drop|reject)", script)
            assert listed is not None
            ranges = map(ipaddress.IPv4Network, listed[1].split(", "))
            assert any(platform.subnet_of(each) for each in ranges), platform


def test_what_is_allowed_is_decided_before_what_is_refused() -> None:
    """A private range that the operator allows is reached although private ranges are not."""
    egress = Egress(allow=("10.9.0.0/16",))
    for script in (
        inner_rules(egress, "172.31.255.2", "tap0", "uplink"),
        local_rules(egress, "uplink"),
        outer_rules(egress, Territory(0)),
    ):
        assert script.index("10.9.0.0/16 } accept") < script.index("10.0.0.0/8")


@pytest.mark.parametrize("allow", [(), ("10.9.0.0/16",)])
def test_without_egress_nothing_else_is_accepted(allow: tuple[str, ...]) -> None:
    """With egress off there is no way out but to what is allowed."""
    script = inner_rules(Egress(public=False, allow=allow), "172.31.255.2", "tap0", "uplink")
    passing = script[script.index("chain passing") : script.index("chain leaving")]
    accepts = [line.strip() for line in passing.splitlines() if line.strip().endswith("accept")]
    assert len(accepts) == 1 + len(allow)
