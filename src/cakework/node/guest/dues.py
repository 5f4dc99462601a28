"""What may come from a guest: an answer for each order, and what comes once, once.

A guest that its program has taken over may say any frame as often as it likes. Whoever reads it
does something for every frame, so one too many ends the connection. Lines are not counted here:
they are what a guest is for, and who takes them keeps it to a rate.
"""

from collections import Counter

from cakework.node.guest.protocol import (
    Ack,
    Exited,
    Failed,
    Freeze,
    Frozen,
    GuestError,
    GuestFrame,
    Hooked,
    HostFrame,
    Line,
    Mark,
    Marked,
    Ping,
    Pong,
    Ready,
    Rehearse,
    Rehearsed,
    Resume,
    Resumed,
    Run,
    RunHook,
    Started,
)

_ANSWERS: dict[type[HostFrame], type[GuestFrame]] = {
    Rehearse: Rehearsed,
    Run: Started,
    Ping: Pong,
    RunHook: Hooked,
    Freeze: Frozen,
    Resume: Resumed,
    Mark: Marked,
}
_LATE = (Exited, Frozen, Hooked, Ready, Rehearsed)
"""What an earlier connection may have asked for, and the guest says when it comes to it."""


class Dues:
    """The frames that are still due on one connection, by kind."""

    def __init__(self) -> None:
        self._due: Counter[type[GuestFrame]] = Counter(_LATE)

    def ordered(self, order: HostFrame) -> None:
        """Note an order that is sent. Any but an ACK may be answered with FAILED, a HELLO too."""
        if answer := _ANSWERS.get(type(order)):
            self._due[answer] += 1
        if isinstance(order, Run) and order.watch:
            self._due[Ready] += 1
        if not isinstance(order, Ack):
            self._due[Failed] += 1

    def come(self, frame: GuestFrame) -> None:
        """Note a frame that came. Raises GuestError if it was not due."""
        kind = type(frame)
        if kind is Line:
            return
        if not self._due[kind]:
            raise GuestError(
                f"the guest said {kind.__name__.lower()} without being asked, or twice"
            )
        self._due[kind] -= 1
