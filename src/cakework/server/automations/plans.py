"""Plans: what an event leads to, worked out before it is written.

To compare events with what triggers want, and to write down what is made of them, takes time of a
processor, which no transaction has to wait for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from cakework.domain.ids import AccountId, FunctionId, UserId
from cakework.server.automations.wishes import Look, Wish, Wishes, WishesOfAccount
from cakework.server.functions.invocations import Entry, Invocations, NewInvocation

TRIGGER = "event"


@dataclass(frozen=True, slots=True)
class Incoming:
    """An event that is whole and checked; ``told`` is it as JSON. ``made_ms`` is when it came, None
    for one that is coming: that meets all triggers there are."""

    id: str
    user_id: str
    event: dict[str, Any] = field(repr=False)
    told: bytes = field(repr=False)
    depth: int = 0
    cause_id: str | None = None
    made_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Made:
    """An invocation that an event leads to, by a trigger."""

    trigger_id: str
    entry: Entry


@dataclass(frozen=True, slots=True)
class Plan:
    """What one event leads to. Triggers with ids above ``after`` are left, if that is not None."""

    made: tuple[Made, ...]
    after: str | None

    def first(self, count: int) -> "Plan":
        """Return what the first ``count`` triggers of an event make; others are left."""
        if count >= len(self.made):
            return self
        return Plan(self.made[:count], self.made[count - 1].trigger_id if count else "")


LATER = Plan((), "")
"""Everything is left."""


class Planner:
    """Makes plans."""

    def __init__(self, wishes: Wishes, invocations: Invocations) -> None:
        """Compare with ``wishes``, and have ``invocations`` make records."""
        self._wishes = wishes
        self._invocations = invocations

    def plan(
        self,
        account: AccountId,
        event: Incoming,
        wishes: WishesOfAccount,
        look: Look,
        most: int,
        after: str = "",
    ) -> Plan:
        """Return what an event leads to with at most ``most`` of the triggers above ``after``.

        Takes time of a processor, up to what ``look`` allows.
        """
        concerned: Sequence[Wish] = wishes.concerned(event.event["type"], event.user_id, after)
        if event.made_ms is not None:
            concerned = [wish for wish in concerned if wish.created_ms <= event.made_ms]
        wanted = self._wishes.wanted(event.event, concerned, look, most, after)
        made = tuple(self._made(account, event, wish) for wish in wanted.wishes)
        return Plan(made, wanted.after)

    def _made(self, account: AccountId, event: Incoming, wish: Wish) -> Made:
        new = NewInvocation(
            event.event,
            UserId(event.user_id or wish.user_id),
            TRIGGER,
            depth=event.depth,
            cause_id=event.cause_id,
            trigger_id=wish.id,
            event_id=event.id,
            retry=wish.retry,
        )
        function_id = FunctionId(wish.function_id)
        return Made(wish.id, self._invocations.entry(account, function_id, new, None, event.told))
