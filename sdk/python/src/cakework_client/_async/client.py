"""All calls together."""

from typing import Unpack

from cakework_client._async.builds import AsyncBuilds
from cakework_client._async.events import AsyncEvents
from cakework_client._async.functions import AsyncFunctions
from cakework_client._async.images import AsyncImages
from cakework_client._async.invocations import AsyncInvocations
from cakework_client._async.running import AsyncRunning
from cakework_client._async.secrets import AsyncSecrets
from cakework_client._async.transforms import AsyncTransforms
from cakework_client._async.triggers import AsyncTriggers
from cakework_client._async.webhooks import AsyncWebhooks
from cakework_client.calls import Options
from cakework_client.models import Health, Readiness


class AsyncCakeworkClient(
    AsyncBuilds,
    AsyncImages,
    AsyncRunning,
    AsyncFunctions,
    AsyncInvocations,
    AsyncTriggers,
    AsyncEvents,
    AsyncTransforms,
    AsyncSecrets,
    AsyncWebhooks,
):
    """Speaks with Cakework, over one pool of connections.

    ``timeout`` means the same everywhere: the seconds within which a call must be done, with
    all its tries and pauses; then it raises :class:`TimedOut`. Calls are tried again where
    that is safe: when the server was not reached, was too busy (after ``Retry-After``), or the
    connection broke and doing it twice is as doing it once: GETs, and POSTs by their keys.
    """

    async def healthz(self, **options: Unpack[Options]) -> Health:
        """Return that the server answers."""
        return await self._call(Health, "GET", "/healthz", options)

    async def readyz(self, **options: Unpack[Options]) -> Readiness:
        """Return that all that the server needs answers too.

        Raises:
            Unavailable: Something does not.
        """
        return await self._call(Readiness, "GET", "/readyz", options)
