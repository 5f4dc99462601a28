"""Made of _async/client.py by generate_sync.py; edit that.

All calls together."""

from typing import Unpack

from cakework_client._sync.builds import Builds
from cakework_client._sync.events import Events
from cakework_client._sync.functions import Functions
from cakework_client._sync.images import Images
from cakework_client._sync.invocations import Invocations
from cakework_client._sync.running import Running
from cakework_client._sync.secrets import Secrets
from cakework_client._sync.transforms import Transforms
from cakework_client._sync.triggers import Triggers
from cakework_client._sync.webhooks import Webhooks
from cakework_client.calls import Options
from cakework_client.models import Health, Readiness


class CakeworkClient(
    Builds,
    Images,
    Running,
    Functions,
    Invocations,
    Triggers,
    Events,
    Transforms,
    Secrets,
    Webhooks,
):
    """Speaks with Cakework, over one pool of connections.

    ``timeout`` means the same everywhere: the seconds within which a call must be done, with
    all its tries and pauses; then it raises :class:`TimedOut`. Calls are tried again where
    that is safe: when the server was not reached, was too busy (after ``Retry-After``), or the
    connection broke and doing it twice is as doing it once: GETs, and POSTs by their keys.
    """

    def healthz(self, **options: Unpack[Options]) -> Health:
        """Return that the server answers."""
        return self._call(Health, "GET", "/healthz", options)

    def readyz(self, **options: Unpack[Options]) -> Readiness:
        """Return that all that the server needs answers too.

        Raises:
            Unavailable: Something does not.
        """
        return self._call(Readiness, "GET", "/readyz", options)
