"""Slots: the places a machine can take on this node, each with its user id and addresses."""

from cakework.domain.errors import NoRoom
from cakework.node.territory import SLOTS


class Slots:
    """Hands out numbers from 0 to 1,023, each to one holder at a time, the longest free first."""

    def __init__(self) -> None:
        self._free = dict.fromkeys(range(SLOTS))

    def take(self) -> int:
        """Take a slot. Raises NoRoom when all are taken."""
        if not self._free:
            raise NoRoom(f"this host runs {SLOTS} machines, and more it cannot")
        slot = next(iter(self._free))
        del self._free[slot]
        return slot

    def claim(self, slot: int) -> None:
        """Take the slot that a machine found running already has."""
        del self._free[slot]

    def give_back(self, slot: int) -> None:
        """Free ``slot`` again."""
        self._free[slot] = None
