"""Packet filter rules, as nftables scripts: what guests reach, and that nothing else reaches them.

There are two walls. The inner one lies in each network namespace and knows its guest; the
outer one lies on the host and knows the interfaces of all namespaces. Either is enough.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from cakework.domain.addresses import NOT_PUBLIC
from cakework.node.territory import SLOTS, Territory

UNTRACKED = "ct status & confirmed == 0"
"""Matches the first packet of a connection, which enters the kernel's table if nothing drops it."""
CONNECTIONS = 2048
"""A 128th of 262,144, which is the most that Linux, left to itself, takes into its table
(https://docs.kernel.org/networking/nf_conntrack-sysctl.html: nf_conntrack_buckets, _max)."""
CONNECTIONS_PER_S = 100
BURST_S = 5
"""So many seconds' worth of new connections may be opened at once."""

REFUSALS_PER_S = 10
"""Of a thousand that the kernel sends in a second, for all its namespaces together
(net.ipv4.icmp_msgs_per_sec)."""


@dataclass(frozen=True, slots=True)
class Egress:
    """What may be reached: the public internet, and ranges allowed although they are not public;
    and how much of the host's table of connections one network may take.

    ``connections`` are those that the kernel tracks at once, of any protocol: it forgets a closed
    one of TCP after two minutes, one of UDP half a minute after its last packet.
    """

    public: bool = True
    allow: Sequence[str] = ()
    connections: int = CONNECTIONS
    connections_per_s: int = CONNECTIONS_PER_S


def inner_rules(egress: Egress, guest: str, tap: str, uplink: str) -> str:
    """Return the rules of a namespace whose guest has address ``guest`` behind ``tap``.

    The namespace itself (where the node dials from) is reached by the guest only in answer.
    """
    return f"""
table ip cakework {{
  {_opening(egress)}
  chain incoming {{
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established accept
  }}
  chain passing {{
    type filter hook forward priority 0; policy drop;
    iifname "{uplink}" ct state established,related accept
    iifname != "{tap}" drop
    ip saddr != {guest} drop
    {UNTRACKED} jump opening
    {_allow(egress)}
    ip daddr {{ {", ".join(NOT_PUBLIC)} }} drop
    {"accept" if egress.public else "drop"}
  }}
  chain leaving {{
    type nat hook postrouting priority 100;
    oifname "{uplink}" masquerade
  }}
}}
table ip6 cakework {{
  chain incoming {{ type filter hook input priority 0; policy drop; }}
  chain passing {{ type filter hook forward priority 0; policy drop; }}
}}
{_neighbours(guest, tap)}
"""


def secluded_rules(guest: str, gateway: str, tap: str) -> str:
    """Return the rules of a namespace whose guest answers the node, and says nothing else.

    It is told that what it sends is refused, a few times a second, so that programs do not wait.
    """
    return f"""
table ip cakework {{
  chain arriving {{
    type filter hook prerouting priority 0; policy drop;
    iifname "{tap}" ip saddr {guest} ip daddr {gateway} ct state established accept
    ip saddr {guest} limit rate {REFUSALS_PER_S}/second reject with icmp type admin-prohibited
  }}
  chain passing {{ type filter hook forward priority 0; policy drop; }}
}}
table ip6 cakework {{
  chain arriving {{ type filter hook prerouting priority 0; policy drop; }}
  chain passing {{ type filter hook forward priority 0; policy drop; }}
}}
{_neighbours(guest, tap)}
"""


def names_rule(guest: str, gateway: str, tap: str) -> str:
    """Return what lets a guest ask a resolver at its gateway, and nothing else there."""
    asks = f'iifname "{tap}" ip saddr {guest} ip daddr {gateway} udp dport 53'
    return (
        f"add rule ip cakework incoming {asks} {UNTRACKED} jump opening\n"
        f"add rule ip cakework incoming {asks} accept\n"
    )


def local_rules(egress: Egress, uplink: str) -> str:
    """Return the rules of a namespace in which processes themselves run: that of a build."""
    return f"""
table ip cakework {{
  {_opening(egress)}
  chain incoming {{
    type filter hook input priority 0; policy drop;
    iifname "lo" accept
    ct state established,related accept
  }}
  chain outgoing {{
    type filter hook output priority 0; policy drop;
    oifname "lo" accept
    {UNTRACKED} jump opening
    {_allow(egress)}
    ip daddr {{ {", ".join(NOT_PUBLIC)} }} reject with icmp type admin-prohibited
    oifname "{uplink}" {"accept" if egress.public else "drop"}
  }}
}}
table ip6 cakework {{
  chain incoming {{ type filter hook input priority 0; policy drop; }}
  chain outgoing {{ type filter hook output priority 0; policy drop; }}
}}
"""


def outer_rules(egress: Egress, territory: Territory, fetch_allow: Sequence[str] = ()) -> str:
    """Return the host's rules for all interfaces of ``territory``, replacing those before.

    Interfaces in the set ``fetching`` also reach the ranges ``fetch_allow``.
    """
    table, ours = territory.name, f'"{territory.interface_prefix}*"'
    return f"""
table ip {table}
delete table ip {table}
table ip {table} {{
  set fetching {{ type ifname; }}
  set opened {{ type ifname; size {SLOTS}; flags dynamic, timeout; timeout 1m; }}
  set open {{ type ifname; size {SLOTS}; flags dynamic; }}
  chain opening {{
    add @opened {{ iifname {_rate(egress)} }} drop
    add @open {{ iifname ct count over {egress.connections} }} drop
  }}
  chain incoming {{
    type filter hook input priority -10;
    iifname {ours} drop
  }}
  chain passing {{
    type filter hook forward priority -10;
    iifname {ours} oifname {ours} drop
    iifname {ours} ip saddr != {territory.subnet} drop
    iifname {ours} {UNTRACKED} jump opening
    iifname @fetching jump fetched
    iifname {ours} {_verdicts(egress)}
    oifname {ours} ct state established,related accept
    oifname {ours} drop
  }}
  chain fetched {{
    {_allow(Egress(allow=fetch_allow))}
  }}
  chain allowed {{
    {_allow(egress)}
    ip daddr {{ {", ".join(NOT_PUBLIC)} }} drop
    {"accept" if egress.public else "drop"}
  }}
  chain leaving {{
    type nat hook postrouting priority 100;
    ip saddr {territory.subnet} oifname != {ours} masquerade
  }}
}}
"""


def fetching_element(verb: Literal["add", "delete"], territory: Territory, slot: int) -> str:
    """Return what adds the interface of ``slot`` to the set ``fetching``, or deletes it."""
    interface = f'"{territory.interface_prefix}{slot}"'
    return f"{verb} element ip {territory.name} fetching {{ {interface} }}\n"


def no_rules(territory: Territory) -> str:
    """Return what takes the host's rules away again."""
    return f"table ip {territory.name}\ndelete table ip {territory.name}\n"


def _neighbours(guest: str, tap: str) -> str:
    """Return what keeps a guest from being many: the kernel's table of neighbours is one for all
    its namespaces, the host's too, and has room for a thousand (net.ipv4.neigh.default.gc_thresh3).
    """
    return f"""table arp cakework {{
  chain asking {{
    type filter hook input priority 0;
    iifname "{tap}" arp saddr ip != {guest} drop
  }}
}}"""


def _opening(egress: Egress) -> str:
    """Return the chain that drops what would open a connection too many."""
    return f"""chain opening {{
    {_rate(egress)} drop
    ct count over {egress.connections} drop
  }}"""


def _rate(egress: Egress) -> str:
    burst = BURST_S * egress.connections_per_s
    return f"limit rate over {egress.connections_per_s}/second burst {burst} packets"


def _verdicts(egress: Egress) -> str:
    return "jump allowed" if egress.public or egress.allow else "drop"


def _allow(egress: Egress) -> str:
    return f"ip daddr {{ {', '.join(egress.allow)} }} accept" if egress.allow else ""
