"""Where webhooks may go: public addresses that are not this host's, and what a setting allows.

The check is of the addresses that a name has when the connection is made, and the connection
goes to an address that was checked, so a name that changes its mind in between gains nothing.
"""

import ipaddress
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cakework.domain.addresses import Address, Network, is_public
from cakework.domain.errors import CakeworkError
from cakework.domain.ids import AccountId
from cakework.server.webhooks.names import Names

_UNLESS = " (the server's setting CAKEWORK_WEBHOOK_ALLOW names exceptions)."
_BRACKETED = re.compile(r"\[([^\]]+)\](?::(\d+))?")


class NotAllowed(CakeworkError):
    """Webhooks may not go there."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """A range of addresses that is allowed all the same, at one port or at all of them."""

    network: Network
    port: int | None

    def covers(self, address: Address, port: int) -> bool:
        """Say whether ``address`` at ``port`` is in it."""
        return address in self.network and self.port in (None, port)


def parse_allowed(words: Iterable[str]) -> tuple[Allowed, ...]:
    """Read a setting: ranges (``10.1.0.0/16``, ``fd00::/8``) and addresses, each with a port
    or not (``127.0.0.1:9000``, ``[::1]:9000``).

    Raises:
        ValueError: one of them is neither.
    """
    return tuple(_parse(word) for word in words)


def _parse(word: str) -> Allowed:
    text, port = word, None
    if bracketed := _BRACKETED.fullmatch(word):
        text, port = bracketed.groups()
    elif word.count(":") == 1:
        text, _, port = word.partition(":")
    try:
        return Allowed(ipaddress.ip_network(text), None if port is None else int(port))
    except ValueError as error:
        raise ValueError(
            f"webhook_allow: {word} is no range and no address, with or without a port"
        ) from error


class Guard:
    """Says which addresses webhooks may go to. ``close()`` when done."""

    def __init__(self, allowed: Sequence[Allowed] = (), names: Names | None = None) -> None:
        """Allow public addresses, and ``allowed``; look names up with ``names``."""
        self._allowed = tuple(allowed)
        self._names = names or Names()

    def close(self) -> None:
        """Look up no more names."""
        self._names.close()

    async def addresses(
        self, account: AccountId, host: str, port: int, *, encrypted: bool
    ) -> list[str]:
        """Look a name up for an account; returns its addresses, every one of them allowed.

        Raises:
            NotAllowed: one of them is not, or it is not for what is not ``encrypted``.
            OSError: the name has no address.
            NotKnown: it was not looked up in time.
        """
        addresses = await self._names.addresses(account, host, port)
        for address in addresses:
            self.check(address, port, encrypted=encrypted)
        return addresses

    def check(self, text: str, port: int, *, encrypted: bool) -> None:
        """Check one address.

        Raises:
            NotAllowed: it is not allowed.
        """
        address = plain(text)
        if any(each.covers(address, port) for each in self._allowed):
            return
        if not is_public(address) or is_own(address):
            raise NotAllowed(f"The URL leads to an address that is not a public one{_UNLESS}")
        if not encrypted:
            raise NotAllowed(f"The URL must begin with https://{_UNLESS}")


def plain(text: str) -> Address:
    """Return an address without a zone, and the IPv4 one that an IPv6 one is another word for."""
    address = ipaddress.ip_address(text.partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def is_own(address: Address) -> bool:
    """Say whether this host has the address: only then can a socket be bound to it."""
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def literal(host: str) -> str | None:
    """Return the address that a host is a spelling of (``2130706433``, ``0x7f.1``), if any."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return None
    return str(found[0][4][0])
