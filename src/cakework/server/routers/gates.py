"""Gates: keep visitors from a VM that is about to stand still, at every router there is.

Who comes meanwhile waits at the router's gate; see ``cakework.router.activity``.
"""

import asyncio
import itertools
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Protocol

from cakework.domain.routes import Gate, Message, Open, Shut

ANSWER_S = 2.0
"""A router that takes longer hangs, and lets nobody in; what it knows is not known here."""


class Link(Protocol):
    """One router."""

    def tell(self, message: Message) -> None:
        """Tell it something."""
        ...


class Gates:
    """The gates of all VMs, at all routers that are connected."""

    def __init__(self) -> None:
        """Begin with no router."""
        self._numbers = itertools.count()
        self._links: set[Link] = set()
        self._answers: dict[tuple[Link, int], asyncio.Future[Gate | None]] = {}

    def join(self, link: Link) -> None:
        """Ask one more router from now on."""
        self._links.add(link)

    def leave(self, link: Link) -> None:
        """Ask a router no more: it is gone."""
        self._links.discard(link)
        for (of, _), answer in self._answers.items():
            if of is link and not answer.done():
                answer.set_result(None)

    def answered(self, link: Link, gate: Gate) -> None:
        """Take a router's answer."""
        answer = self._answers.get((link, gate.gate))
        if answer is not None and not answer.done():
            answer.set_result(gate)

    @asynccontextmanager
    async def shut(self, vm_id: str) -> AsyncGenerator[None]:
        """Let no new requests into a VM while the block runs, whatever is under way."""
        async with self._shut(vm_id, None):
            yield

    @asynccontextmanager
    async def shut_if_idle(self, vm_id: str, idle_s: float) -> AsyncGenerator[float | None]:
        """Let no requests into a VM while the block runs, if there was none for ``idle_s``.

        Else nothing is shut, and the block gets for how long there was none: 0 where a router does
        not say, or there is none. That may be one that is about to be back, with visitors.
        """
        async with self._shut(vm_id, idle_s) as answers:
            if answers and all(gate is not None and gate.shut for gate in answers):
                yield None
                return
        yield min((gate.idle_s if gate else 0.0 for gate in answers), default=0.0)

    @asynccontextmanager
    async def _shut(self, vm_id: str, idle_s: float | None) -> AsyncGenerator[list[Gate | None]]:
        gate, links = next(self._numbers), list(self._links)
        try:
            asked = [self._ask(link, Shut(gate=gate, vm_id=vm_id, idle_s=idle_s)) for link in links]
            yield await asyncio.gather(*asked)
        finally:
            for link in links:
                link.tell(Open(gate=gate))

    async def _ask(self, link: Link, shut: Shut) -> Gate | None:
        """Return what a router says, or None when it does not, or is gone."""
        answer = asyncio.get_running_loop().create_future()
        self._answers[link, shut.gate] = answer
        link.tell(shut)
        try:
            async with asyncio.timeout(ANSWER_S):
                return await answer
        except TimeoutError:
            return None
        finally:
            del self._answers[link, shut.gate]
