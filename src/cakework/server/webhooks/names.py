"""Names looked up as the host does: in threads of their own, accounts in turns.

A look-up cannot be broken off, and one whose name server does not answer takes half a minute
(resolv.conf(5): timeout, attempts). So its turn is held until it is over, whoever has given up
waiting for it.
"""

import asyncio
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from cakework.domain.errors import Unavailable
from cakework.domain.ids import AccountId
from cakework.turns import Turns

LOOKUPS_AT_ONCE = 8
TIMEOUT_S = 10.0


class NotKnown(Unavailable):
    """A name server does not answer, or too many of the account's do not."""


def host_addresses(host: str, port: int) -> list[str]:
    """Return the addresses of a name. Blocks; raises OSError when it has none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(one[4][0]) for one in found))


class Names:
    """Looks names up for accounts. ``close()`` when done."""

    def __init__(
        self,
        lookup: Callable[[str, int], list[str]] = host_addresses,
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._lookup = lookup
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(LOOKUPS_AT_ONCE, thread_name_prefix="names")
        self._turns: Turns[AccountId] = Turns(LOOKUPS_AT_ONCE)

    async def addresses(self, account: AccountId, host: str, port: int) -> list[str]:
        """Return the addresses of a name, at least one.

        Raises:
            OSError: it has none.
            UnicodeError: it is no name.
            NotKnown: they are not known in time.
        """
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._turns.wait(account)
                return await asyncio.shield(self._begin(account, host, port))
        except TimeoutError as error:
            raise NotKnown("The name in the URL could not be looked up in time.") from error

    def close(self) -> None:
        """Look up no more names."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _begin(self, account: AccountId, host: str, port: int) -> asyncio.Future[list[str]]:
        loop = asyncio.get_running_loop()
        try:
            found = loop.run_in_executor(self._threads, self._lookup, host, port)
        except BaseException:
            self._turns.give_back(account)
            raise
        found.add_done_callback(lambda found: self._over(account, found))
        return found

    def _over(self, account: AccountId, found: asyncio.Future[list[str]]) -> None:
        self._turns.give_back(account)
        if not found.cancelled():
            # Of who has given up waiting, nobody else asks for it.
            found.exception()
