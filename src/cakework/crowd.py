"""All clients' connections to a port: how many there may be, and which one gives way to a new one.

A connection with a request under way is let be. One without is *silent*: nothing came on it yet,
or a head that is not whole, or its last answer is over. When there are as many as may be, the one
that is silent for longest gives way, of the address that has most of them. So whoever opens
thousands and says nothing closes its own; and behind a proxy, where all have one address, those
go that are of no use to anybody.
"""

import ipaddress
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from operator import itemgetter
from typing import Generic, Protocol, TypeVar

V6_PREFIX = 64
"""What of an IPv6 address names a client: the rest, it chooses itself (RFC 4291, 2.5.4)."""


class Connection(Protocol):
    """One client's connection."""

    @property
    def peer(self) -> str:
        """The address of the client, empty where it has none."""
        ...

    def abort(self) -> None:
        """Close it now."""
        ...


class Holding(Protocol):
    """A connection in which bytes wait to be taken by somebody."""

    @property
    def account(self) -> str:
        """Whose request is at work on it, empty for nobody's."""
        ...

    @property
    def held(self) -> int:
        """How many bytes wait."""
        ...


AnyConnection = TypeVar("AnyConnection", bound=Connection)
AnyHolding = TypeVar("AnyHolding", bound=Holding)


class Crowd(Generic[AnyConnection]):
    """The connections of clients, ``most`` at once."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._addresses: dict[AnyConnection, str] = {}
        self._silent: dict[str, dict[AnyConnection, None]] = {}

    def admit(self, client: AnyConnection) -> bool:
        """Take one more, silent at first, another giving way if need be; say whether it may be."""
        if len(self._addresses) >= self._most and not self._have_one_give_way():
            return False
        self._addresses[client] = whose(client.peer)
        self.falls_silent(client)
        return True

    def leave(self, client: AnyConnection) -> None:
        """Forget a connection that is over; one that gave way is forgotten already."""
        if client in self._addresses:
            self.speaks(client)
            del self._addresses[client]

    @contextmanager
    def speaking(self, client: AnyConnection) -> Generator[None]:
        """Let a connection be while the block runs: a request is under way."""
        self.speaks(client)
        try:
            yield
        finally:
            self.falls_silent(client)

    def speaks(self, client: AnyConnection) -> None:
        """Let a connection be until it falls silent."""
        address = self._addresses.get(client, "")
        if (of_address := self._silent.get(address)) is not None:
            of_address.pop(client, None)
            if not of_address:
                del self._silent[address]

    def falls_silent(self, client: AnyConnection) -> None:
        """Say that no request is under way on a connection any more."""
        if client in self._addresses:
            self._silent.setdefault(self._addresses[client], {})[client] = None

    def silent(self) -> list[AnyConnection]:
        """Return the connections without a request."""
        return [client for of_address in self._silent.values() for client in of_address]

    def _have_one_give_way(self) -> bool:
        if not self._silent:
            return False
        fullest = max(self._silent.values(), key=len)
        oldest = next(iter(fullest))
        self.leave(oldest)
        oldest.abort()
        return True


def whose(peer: str) -> str:
    """Return what of a peer's address is not its own choice."""
    address = ipaddress.ip_address(peer.partition("%")[0]) if peer else None
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is None:
        return str(ipaddress.IPv6Network((address, V6_PREFIX), strict=False))
    return peer


def in_the_way(connections: Iterable[AnyHolding], bytes_max: int) -> list[AnyHolding]:
    """Return which have to give way for the others to hold no more than ``bytes_max`` bytes.

    Of the account that holds most, the one that holds most; then again.
    """
    held = [(each.held, each) for each in connections]
    total = sum(size for size, _ in held)
    if total <= bytes_max:
        return []
    accounts: dict[str, list[tuple[int, AnyHolding]]] = {}
    for size, each in sorted(held, key=itemgetter(0)):
        accounts.setdefault(each.account, []).append((size, each))
    sums = {account: sum(size for size, _ in sizes) for account, sizes in accounts.items()}
    found: list[AnyHolding] = []
    while total > bytes_max:
        account = max(sums, key=lambda account: sums[account])
        size, each = accounts[account].pop()
        found.append(each)
        sums[account] -= size
        total -= size
    return found
