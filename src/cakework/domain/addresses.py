"""Addresses that no stranger's code or URL may lead to: one list, which all walls have.

The packet filters of VMs, builds and fetches, the resolver of builds, and webhooks refuse them,
unless a setting of the operator's allows them.
"""

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

SPECIAL = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/3",
)
"""IPv4 ranges that are not globally reachable, by IANA's special-purpose address registry."""

PLATFORM = (
    "100.100.100.200/32",
    "161.26.0.0/16",
    "166.8.0.0/14",
    "168.63.129.16/32",
    "169.254.0.0/16",
    "192.0.0.192/32",
    "fd00:42::42/128",
    "fd00:a9fe:a9fe::1/128",
    "fd00:c1::a9fe:a9fe/128",
    "fd00:ec2::/32",
    "fd20:ce::254/128",
)
"""Where clouds serve the machines that they host: metadata, with credentials, names, agents.
Some look like public addresses, and are a neighbour's of the host all the same.

====================  ===========================================================================
168.63.129.16         Azure's WireServer, DHCP and DNS, the same in all regions:
                      learn.microsoft.com/azure/virtual-network/what-is-ip-address-168-63-129-16
161.26.0.0/16         IBM Cloud's infrastructure (names, mirrors, storage), and
166.8.0.0/14          its service endpoints; such traffic does not leave IBM Cloud:
                      cloud.ibm.com/docs/vpc?topic=vpc-service-endpoints-for-vpc
100.100.100.200       Alibaba Cloud's metadata: cloud-init's documentation, "AliYun"
169.254.0.0/16        metadata of most others (169.254.169.254), of ECS tasks (169.254.170.2), of
                      Scaleway (169.254.42.42), and more
192.0.0.192           metadata of Oracle Cloud Classic, which is no more; lists of others have it
fd00:ec2::/32         AWS: metadata (::254), names (::253), time (::123):
                      docs.aws.amazon.com/whitepapers/latest/ipv6-on-aws
fd00:42::42           Scaleway's metadata: cloud-init's documentation, "Scaleway"
fd00:c1::a9fe:a9fe    Oracle Cloud's metadata: oci-python-sdk, signer for instance principals
fd00:a9fe:a9fe::1     Akamai's metadata: techdocs.akamai.com/cloud-computing, metadata service
fd20:ce::254          metadata of Google Cloud's machines that have IPv6 alone
====================  ===========================================================================
"""

_CARRIERS = tuple(
    ipaddress.IPv6Network(one)
    for one in ("64:ff9b::/96", "64:ff9b:1::/48", "2002::/16", "2001::/32", "::/96")
)
"""IPv6 ranges that carry an IPv4 address: NAT64, 6to4, Teredo, IPv4-compatible."""


def _without_overlap(ranges: tuple[str, ...]) -> tuple[str, ...]:
    """Keep the IPv4 ones, none of them twice: a set of nftables takes no overlaps."""
    networks = [ipaddress.IPv4Network(one) for one in ranges if ":" not in one]
    return tuple(str(one) for one in ipaddress.collapse_addresses(networks))


NOT_PUBLIC = _without_overlap((*SPECIAL, *PLATFORM))
"""All IPv4 ranges of both lists, for a packet filter: in order, without overlap."""

_REFUSED: tuple[Network, ...] = tuple(ipaddress.ip_network(one) for one in (*SPECIAL, *PLATFORM))


def is_refused(address: Address) -> bool:
    """Say whether an address is on either list."""
    return any(address in network for network in _REFUSED)


def is_public(address: Address) -> bool:
    """Say whether an address is one of the public internet's, for one receiver."""
    carries = isinstance(address, ipaddress.IPv6Address) and any(
        address in carrier for carrier in _CARRIERS
    )
    for_one = not (carries or address.is_multicast or address.is_reserved)
    return address.is_global and for_one and not is_refused(address)
