"""Turns: accounts one after another, and the things of each account one after another."""

from collections import OrderedDict, deque
from typing import Generic, TypeVar

T = TypeVar("T")


class Rotation(Generic[T]):
    """Things that wait for their turn.

    However many of one account wait, another account's first is given after one of each account.
    """

    def __init__(self) -> None:
        self._accounts: OrderedDict[str, deque[T]] = OrderedDict()

    def add(self, account: str, thing: T) -> None:
        """Have a thing wait, behind the others of its account; it must not be waiting already."""
        self._accounts.setdefault(account, deque()).append(thing)

    def take(self) -> T | None:
        """Give the thing whose turn it is; None when none waits. Its account is the last then."""
        if not self._accounts:
            return None
        account, waiting = next(iter(self._accounts.items()))
        thing = waiting.popleft()
        if waiting:
            self._accounts.move_to_end(account)
        else:
            del self._accounts[account]
        return thing
