"""Networks that builds and fetches run on: the public internet, never the host or its neighbours.

Each is a namespace with a packet filter, looked at again by the host's own, and a resolver
(:mod:`cakework.node.network.names`). Where images and sources are fetched from, which is where
no command of a stranger's runs, the operator may open more than to builds: :class:`Reach`.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial

from cakework.node.cleanup import clean_up
from cakework.node.network.names import HostNames, serve_names
from cakework.node.network.namespaces import (
    GATEWAY,
    Namespace,
    let_ask_names,
    make_build_namespace,
    set_host_rules,
    unplug,
)
from cakework.node.network.relays import Address, relay
from cakework.node.network.rules import Egress, fetching_element
from cakework.node.network.slots import Slots
from cakework.node.territory import Territory
from cakework.unbroken import unbroken


@dataclass(frozen=True, slots=True)
class Reach:
    """What fetching reaches beside the public internet: ranges, ports of the host's loopback."""

    ranges: tuple[str, ...] = ()
    loopback: tuple[Address, ...] = ()

    @classmethod
    def parse(cls, allow: Sequence[str], named: Iterable[str]) -> "Reach":
        """Read the setting ``fetch_allow``; of ``named`` addresses, host:port, take loopback ones.

        Raises:
            ValueError: a word is neither a range nor a loopback address with a port.
        """
        ranges: list[str] = []
        loopback: dict[Address, None] = {}
        for word in allow:
            if address := loopback_address(word):
                loopback[address] = None
            else:
                ranges.append(_range(word))
        loopback |= {address: None for word in named if (address := loopback_address(word))}
        return cls(tuple(ranges), tuple(loopback))


def loopback_address(text: str) -> Address | None:
    """Read ``127.0.0.1:5000`` or ``localhost:5000``; None for anything else."""
    host, _, port = text.partition(":")
    host = "127.0.0.1" if host == "localhost" else host
    with contextlib.suppress(ValueError):
        if ipaddress.IPv4Address(host).is_loopback and 0 < int(port) < 65_536:
            return host, int(port)
    return None


class BuildNetworks:
    """Leases network namespaces to builds and fetches. ``close()`` when done."""

    def __init__(
        self,
        territory: Territory,
        slots: Slots,
        egress: Egress,
        reach: Reach | None = None,
        names: HostNames | None = None,
    ) -> None:
        self._territory = territory
        self._slots = slots
        self._egress = egress
        self._reach = reach or Reach()
        self._names = names or HostNames()

    def close(self) -> None:
        """Look up no more names."""
        self._names.close()

    @asynccontextmanager
    async def lease(self, owner: str) -> AsyncGenerator[str]:
        """Give the path of a namespace for a build's commands; it goes when the lease ends.

        Names are looked up for ``owner``, the account that builds.
        """
        async with self._namespace(owner, self._egress) as namespace:
            yield namespace.path

    @asynccontextmanager
    async def lease_fetching(self, owner: str) -> AsyncGenerator[str]:
        """Give the path of a namespace to fetch from where the operator's reach goes, too."""
        allow = (*self._egress.allow, *self._reach.ranges)
        async with contextlib.AsyncExitStack() as stack:
            egress = replace(self._egress, allow=allow)
            namespace = await stack.enter_async_context(self._namespace(owner, egress))
            await stack.enter_async_context(self._let_through(namespace))
            for address in self._reach.loopback:
                await stack.enter_async_context(relay(namespace.fd, address))
            yield namespace.path

    @asynccontextmanager
    async def names_for(self, namespace_fd: int, owner: str) -> AsyncGenerator[None]:
        """Answer the guest of a VM's namespace, at its gateway, as builds of ``owner`` are."""
        await unbroken(asyncio.to_thread(let_ask_names, namespace_fd))
        lookup = partial(self._names.lookup, owner)
        async with serve_names(namespace_fd, lookup, self._egress.allow, GATEWAY):
            yield

    @asynccontextmanager
    async def _namespace(self, owner: str, egress: Egress) -> AsyncGenerator[Namespace]:
        async with contextlib.AsyncExitStack() as stack:
            slot = self._slots.take()
            stack.callback(self._slots.give_back, slot)
            namespace = await unbroken(self._plug(slot, egress, stack))
            lookup = partial(self._names.lookup, owner)
            await stack.enter_async_context(serve_names(namespace.fd, lookup, egress.allow))
            yield namespace

    async def _plug(self, slot: int, egress: Egress, stack: contextlib.AsyncExitStack) -> Namespace:
        make = partial(make_build_namespace, self._territory, slot, egress)
        namespace = await asyncio.to_thread(make)
        # If they stay, whoever has the slot next removes them before all else.
        remove = partial(unplug, self._territory, slot)
        stack.push_async_callback(clean_up, "links", lambda: asyncio.to_thread(remove), slot=slot)
        stack.callback(namespace.close)
        return namespace

    @asynccontextmanager
    async def _let_through(self, namespace: Namespace) -> AsyncGenerator[None]:
        """Have the host's own filter know a namespace that fetches."""
        element = partial(fetching_element, territory=self._territory, slot=namespace.slot)
        shut_off = partial(self._shut_off, namespace.slot, element("delete"))
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(clean_up, "rule", shut_off, slot=namespace.slot)
            try:
                await _to_its_end(partial(set_host_rules, element("add")))
            except OSError:
                # A script is taken as a whole or not at all.
                stack.pop_all()
                raise
            yield

    async def _shut_off(self, slot: int, rule: str) -> None:
        """Have the host's filter forget a namespace that fetched.

        A build that has the slot next must not reach as far: if this fails, none has it until the
        node's next start, where all rules are made anew.
        """
        try:
            await asyncio.to_thread(set_host_rules, rule)
        except BaseException:
            self._slots.claim(slot)
            raise


async def _to_its_end(work: Callable[[], None]) -> None:
    """Do in a thread what must be over before anything else is done with a slot."""
    await unbroken(asyncio.to_thread(work))


def _range(word: str) -> str:
    try:
        return str(ipaddress.IPv4Network(word))
    except ValueError as error:
        raise ValueError(f"fetch_allow: {word!r} is no range and no loopback port") from error
