"""The waitlist: addresses of people who want to hear from us, each of them once.

Whoever asks learns nothing of who is on it: an address that was there is answered as a new one.
"""

import re
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from sqlalchemy import select

from cakework.domain.errors import FieldError, InvalidRequest, QuotaExceeded
from cakework.server.clock import Clock
from cakework.server.store.database import Database
from cakework.server.store.models import WaitlistRow

EMAIL_CHARS_MAX = 254
"""Of RFC 5321, with the corrections to it."""
CALLER_MOST, ALL_MOST, WITHIN_S = 5, 300, 60.0
"""How many may be asked for by one caller, and by all, in how many seconds."""
CALLERS_MAX = 10_000
_EMAIL = re.compile(r"[^@\s\x00-\x1f\x7f]{1,64}@(?:[a-z0-9](?:[a-z0-9-]*[a-z0-9])?\.)+[a-z]{2,63}")


class Waitlist:
    """Takes addresses."""

    def __init__(
        self, database: Database, clock: Clock, steady: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep addresses in ``database``; ``steady`` gives seconds, for the bound on callers."""
        self._database = database
        self._clock = clock
        self._steady = steady
        self._callers: OrderedDict[str, deque[float]] = OrderedDict()
        self._all: deque[float] = deque()

    async def join(self, email: str, caller: str) -> None:
        """Put an address on the list; one that is there stays as it was.

        Raises:
            InvalidRequest: it is no address.
            QuotaExceeded: ``caller``, or all together, have asked too often.
        """
        self._count(caller)
        address = _checked(email)
        async with self._database.writing() as session:
            if await session.scalar(select(WaitlistRow).where(WaitlistRow.email == address)):
                return
            session.add(WaitlistRow(email=address, created_ms=self._clock()))

    def _count(self, caller: str) -> None:
        now = self._steady()
        mine = self._callers.setdefault(caller, deque())
        self._callers.move_to_end(caller)
        if len(self._callers) > CALLERS_MAX:
            self._callers.popitem(last=False)
        for seen, most in ((mine, CALLER_MOST), (self._all, ALL_MOST)):
            while seen and seen[0] <= now - WITHIN_S:
                seen.popleft()
            if len(seen) >= most:
                wait_s = int(seen[0] + WITHIN_S - now) + 1
                detail = "That was too often. Please try again in a minute."
                raise QuotaExceeded(detail, retry_after_s=wait_s)
        mine.append(now)
        self._all.append(now)


def _checked(email: str) -> str:
    address = email.strip().lower()
    if len(address) > EMAIL_CHARS_MAX or not _EMAIL.fullmatch(address):
        fault = FieldError("email", "must be an e-mail address")
        raise InvalidRequest("This is not an e-mail address.", [fault])
    return address
