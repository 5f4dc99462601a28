"""Slots: the places a machine can take on this node, each with its user id and addresses."""

from collections import Counter
from collections.abc import Callable

from cakework.domain.errors import NoRoom
from cakework.node.territory import SLOTS


class Slots:
    """Hands out numbers from 0 to 1,023, the longest free first, each to one taker at a time.

    Machines that are to have another's user claim its slot too: it is free when all gave it back.
    """

    def __init__(self) -> None:
        self.when_short: Callable[[], None] = _nothing
        """Called when one is to be taken and none is free: it may give some back."""
        self._free = dict.fromkeys(range(SLOTS))
        self._holders: Counter[int] = Counter()

    @property
    def free(self) -> int:
        """How many nobody has."""
        return len(self._free)

    def is_held(self, slot: int) -> bool:
        """Say whether somebody has ``slot``."""
        return slot not in self._free

    def take(self) -> int:
        """Take a slot. Raises NoRoom when all are taken."""
        if not self._free:
            self.when_short()
        return self.take_free()

    def take_free(self) -> int:
        """Take a slot if one is free as it is. Raises NoRoom."""
        if not self._free:
            raise NoRoom(f"this host runs {SLOTS} machines, and more it cannot")
        slot = next(iter(self._free))
        self.claim(slot)
        return slot

    def claim(self, slot: int) -> None:
        """Take ``slot`` for one holder more: a machine that was found running, or shares a user."""
        self._free.pop(slot, None)
        self._holders[slot] += 1

    def give_back(self, slot: int) -> None:
        """Free ``slot`` again, if nobody else has it."""
        self._holders[slot] -= 1
        if not self._holders[slot]:
            del self._holders[slot]
            self._free[slot] = None


def _nothing() -> None:
    return None
