"""The kernel's table of connections, as ctnetlink gives access to it: entries of one address are
removed in one call, whatever else is in the table.

Numbers: linux/netfilter/nfnetlink_conntrack.h and, for the flag of a filter,
net/netfilter/nf_conntrack_netlink.c. Kernels know filters since 5.8.
"""

import os
import socket
import struct

_NETFILTER = 12
_DELETE = 1 << 8 | 2
"""Message IPCTNL_MSG_CT_DELETE of the subsystem NFNL_SUBSYS_CTNETLINK."""
_REQUEST, _ACK, _NESTED = 0x1, 0x4, 0x8000
_TUPLE_ORIG, _FILTER = 1, 25
_TUPLE_IP, _IP_V4_SRC = 1, 1
_ORIG_FLAGS, _REPLY_FLAGS = 1, 2
_BY_SOURCE = 1 << 0
_HEADER = struct.Struct("=IHHII")
_TIMEOUT_S = 10


def forget_connections(source: str) -> None:
    """Remove every connection from the IPv4 address ``source`` that the kernel tracks in the
    network namespace of the calling thread. Raises OSError."""
    address = _attribute(_IP_V4_SRC, socket.inet_aton(source))
    flags = _attribute(_ORIG_FLAGS, struct.pack("=I", _BY_SOURCE))
    body = (
        struct.pack("=BBH", socket.AF_INET, 0, 0)
        + _attribute(_TUPLE_ORIG | _NESTED, _attribute(_TUPLE_IP | _NESTED, address))
        + _attribute(_FILTER | _NESTED, flags + _attribute(_REPLY_FLAGS, bytes(4)))
    )
    head = _HEADER.pack(_HEADER.size + len(body), _DELETE, _REQUEST | _ACK, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETFILTER) as kernel:
        kernel.settimeout(_TIMEOUT_S)
        kernel.send(head + body)
        answer = kernel.recv(4096)
    (error,) = struct.unpack_from("=i", answer, _HEADER.size)
    if error:
        raise OSError(-error, f"connections of {source} stay: {os.strerror(-error)}")


def _attribute(kind: int, value: bytes) -> bytes:
    size = 4 + len(value)
    return struct.pack("=HH", size, kind) + value + bytes(-size % 4)
