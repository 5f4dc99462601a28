"""Doors: the URLs at which webhooks come in, ``/in/<door>``, and the secrets of who sends them.

A door is 32 random characters (192 bits). A row is found by a door's mark, so neither the time that
takes nor the store alone says what it is; the door itself is sealed, for the owner to see again.
What is sealed opens for its own trigger only. The secret before is what ``secret_sealed`` was, as
it was, and is taken for ``FORMER_MS`` more.
"""

import base64
import re
import secrets

from cakework.server.clock import Clock
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.sealing import Sealer

DOOR_PATTERN = r"^[A-Za-z0-9_-]{32}\Z"
FORMER_MS = 24 * 3600 * 1000
"""How long the secret before is taken besides the new one."""
_RANDOM_BYTES = 24
_MARKED = "webhook door"
_DOOR = re.compile(DOOR_PATTERN, re.ASCII)


class Doors:
    """Makes doors, and seals and opens them and the secrets of who sends to them."""

    def __init__(self, sealer: Sealer, clock: Clock) -> None:
        """Seal with ``sealer``; ``clock`` says when a secret before is taken no more."""
        self._sealer = sealer
        self._clock = clock

    def new(self, drawn: bytes | None = None) -> str:
        """Return a door that nobody can guess: 32 characters that URLs can have; of what was
        ``drawn``, if anything was."""
        bits = secrets.token_bytes(_RANDOM_BYTES) if drawn is None else drawn[:_RANDOM_BYTES]
        return base64.urlsafe_b64encode(bits).decode()

    def draw(self, what: str, trigger_id: str, token: str | None) -> bytes | None:
        """Return 32 random bytes for ``what`` an idempotent request makes, the same ones whenever
        it is carried out; None if it has no ``token``."""
        if token is None:
            return None
        return self._sealer.draw(f"webhook {what} of {trigger_id} {token}")

    def mark(self, door: str) -> bytes:
        """Return by what the row of a door is found (``TriggerRow.door``)."""
        return self._sealer.mark(door.encode(), _MARKED)

    def seal_door(self, trigger_id: str, door: str) -> bytes:
        """Return a door sealed for its trigger."""
        return self._sealer.seal(door.encode(), f"webhook door of {trigger_id}")

    def open_door(self, trigger_id: str, sealed: bytes) -> str:
        """Return the door that was sealed. Raises CakeworkError: it is another trigger's."""
        return self._sealer.unseal(sealed, f"webhook door of {trigger_id}").decode()

    def seal_secret(self, trigger_id: str, secret: str) -> bytes:
        """Return the secret of a trigger sealed for it."""
        return self._sealer.seal(secret.encode(), f"webhook secret of {trigger_id}")

    def open_secret(self, trigger_id: str, sealed: bytes) -> str:
        """Return the secret that was sealed. Raises CakeworkError: it is another trigger's."""
        return self._sealer.unseal(sealed, f"webhook secret of {trigger_id}").decode()

    def secrets_of(self, row: TriggerRow) -> tuple[str, ...]:
        """Return the secrets that are taken now: the newest, and the one before if it still is."""
        sealed = [row.secret_sealed]
        if row.former_until_ms is not None and row.former_until_ms > self._clock():
            sealed.append(row.former_sealed)
        return tuple(self.open_secret(row.id, each) for each in sealed if each is not None)


def is_door(text: str) -> bool:
    """Return whether ``text`` can be a door at all."""
    return _DOOR.match(text) is not None
