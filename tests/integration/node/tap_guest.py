"""A guest behind a tap, made of packets: it says what it likes, as a stranger's kernel could."""

import os
import socket
import struct
import time

from cakework.node.network.namespaces import GATEWAY, GUEST_ADDRESS, VNET_HDR_SIZE

MAC = b"\x02\x63\x77\0\0\x01"
BROADCAST = b"\xff" * 6
IPV4, ARP, IPV6 = 0x0800, 0x0806, 0x86DD
PORT = 40_000


class TapGuest:
    """Sends and receives UDP through the descriptor of a tap."""

    def __init__(self, tap: int) -> None:
        self._tap = tap
        self._gateway = BROADCAST

    def meet(self, gateway: str) -> None:
        """Ask for the gateway's link address, so that it knows ours."""
        question = _arp(1, MAC, GUEST_ADDRESS, b"\0" * 6, gateway)
        self._send(BROADCAST, ARP, question)
        answer = self._receive(ARP)
        self._gateway = answer[8:14]

    def say(
        self,
        text: bytes,
        target: str,
        port: int,
        source: str = GUEST_ADDRESS,
        from_port: int = PORT,
        to: bytes | None = None,
    ) -> None:
        """Send a datagram from ``source``, whether that is ours or not; ``to`` is another link
        address than the gateway's."""
        udp = struct.pack("!HHHH", from_port, port, 8 + len(text), 0) + text
        head = struct.pack(
            "!BBHHHBBH4s4s",
            *(0x45, 0, 20 + len(udp), 1, 0, 64, socket.IPPROTO_UDP, 0),
            *(socket.inet_aton(source), socket.inet_aton(target)),
        )
        head = head[:10] + struct.pack("!H", _checksum(head)) + head[12:]
        self._send(to or self._gateway, IPV4, head + udp)

    def say_by_ipv6(self, text: bytes, target: str, port: int, source: str) -> None:
        """Send a datagram by IPv6, to whoever takes it."""
        udp = struct.pack("!HHHH", PORT, port, 8 + len(text), 0) + text
        head = struct.pack("!IHBB", 6 << 28, len(udp), socket.IPPROTO_UDP, 64)
        head += socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(
            socket.AF_INET6, target
        )
        for to in (self._gateway, BROADCAST):
            self._send(to, IPV6, head + udp)

    def is_answered(self, address: str) -> bool:
        """Ask who has an address, and then the gateway; say whether the first answer is to the
        first question."""
        for asked in (address, GATEWAY):
            self._send(BROADCAST, ARP, _arp(1, MAC, GUEST_ADDRESS, b"\0" * 6, asked))
        return self._receive(ARP)[14:18] == socket.inet_aton(address)

    def ask_as(self, address: str) -> None:
        """Ask for the gateway's link address as if one had ``address`` oneself."""
        self._send(BROADCAST, ARP, _arp(1, MAC, address, b"\0" * 6, GATEWAY))

    def refusals(self) -> int:
        """Return how many errors of ICMP are there by now."""
        count = 0
        while True:
            try:
                frame = os.read(self._tap, 65_536)[VNET_HDR_SIZE:]
            except BlockingIOError:
                return count
            count += frame[12:14] == b"\x08\0" and frame[23] == socket.IPPROTO_ICMP

    def hear(self) -> tuple[str, bytes]:
        """Return the next datagram that comes: from where, and its text."""
        while True:
            packet = self._receive(IPV4)
            if packet[9] == socket.IPPROTO_UDP:
                return socket.inet_ntoa(packet[12:16]), packet[28:]

    def _send(self, to: bytes, kind: int, payload: bytes) -> None:
        frame = to + MAC + struct.pack("!H", kind) + payload
        os.write(self._tap, b"\0" * VNET_HDR_SIZE + frame.ljust(60, b"\0"))

    def _receive(self, kind: int) -> bytes:
        """Return the payload of the next frame of a kind, answering questions meanwhile."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            try:
                frame = os.read(self._tap, 65_536)[VNET_HDR_SIZE:]
            except BlockingIOError:
                time.sleep(0.001)
                continue
            got, payload = struct.unpack("!H", frame[12:14])[0], frame[14:]
            if got == ARP and payload[7] == 1 and payload[24:28] == socket.inet_aton(GUEST_ADDRESS):
                answer = _arp(
                    2, MAC, GUEST_ADDRESS, payload[8:14], socket.inet_ntoa(payload[14:18])
                )
                self._send(payload[8:14], ARP, answer)
            elif got == kind:
                return payload
        raise TimeoutError("nothing came")


def _arp(verb: int, mac: bytes, address: str, to_mac: bytes, to: str) -> bytes:
    head = struct.pack("!HHBBH", 1, IPV4, 6, 4, verb)
    return head + mac + socket.inet_aton(address) + to_mac + socket.inet_aton(to)


def _checksum(head: bytes) -> int:
    total = sum(struct.unpack(f"!{len(head) // 2}H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return ~(total + (total >> 16)) & 0xFFFF
