"""Calls about webhooks."""

from collections.abc import AsyncGenerator, Sequence
from typing import Unpack

from cakework_client._async.transport import AsyncTransport
from cakework_client.calls import Options, PostOptions, segment
from cakework_client.models import (
    DeliveryStatus,
    EventType,
    Webhook,
    WebhookDelivery,
    WebhookDeliveryPage,
    WebhookList,
    WebhookWithSecret,
)
from cakework_client.wire import UNSET, Unset, changed, given


class AsyncWebhooks(AsyncTransport):
    """Calls about webhooks: where events about builds, VMs and functions are sent."""

    async def create_webhook(
        self,
        url: str,
        *,
        events: Sequence[EventType] | None = None,
        description: str | None = None,
        **options: Unpack[PostOptions],
    ) -> WebhookWithSecret:
        """Have events sent to a URL of yours; the answer's ``secret`` is shown this once.

        Args:
            url: Where events are sent: https://, a public address.
            events: Events to send; if absent all of them but ``invocation.succeeded``.
            description: What it is for, for people.
            options: ``timeout``, ``idempotency_key``.
        """
        body = given(url=url, events=events, description=description)
        return await self._call(WebhookWithSecret, "POST", "/v1/webhooks", options, body=body)

    async def list_webhooks(self, **options: Unpack[Options]) -> WebhookList:
        """Return all webhooks, oldest first."""
        return await self._call(WebhookList, "GET", "/v1/webhooks", options)

    async def get_webhook(self, webhook_id: str, **options: Unpack[Options]) -> Webhook:
        """Return a webhook."""
        return await self._call(Webhook, "GET", _path(webhook_id), options)

    async def update_webhook(
        self,
        webhook_id: str,
        *,
        url: str | Unset = UNSET,
        events: Sequence[EventType] | Unset | None = UNSET,
        description: str | Unset | None = UNSET,
        enabled: bool | Unset = UNSET,
        **options: Unpack[Options],
    ) -> Webhook:
        """Change what is given of a webhook; all else stays.

        Args:
            webhook_id: Id of the webhook.
            url: Where events are sent.
            events: Events to send; None for all of them but ``invocation.succeeded``.
            description: What it is for; None for nothing.
            enabled: False ends what is pending and sends nothing more; True begins anew.
            options: ``timeout``.
        """
        body = changed(url=url, events=events, description=description, enabled=enabled)
        return await self._call(Webhook, "PATCH", _path(webhook_id), options, body=body)

    async def delete_webhook(self, webhook_id: str, **options: Unpack[Options]) -> Webhook:
        """Remove a webhook and its log."""
        return await self._call(Webhook, "DELETE", _path(webhook_id), options)

    async def rotate_webhook_secret(
        self, webhook_id: str, **options: Unpack[PostOptions]
    ) -> WebhookWithSecret:
        """Change the secret; the new one is shown this once. The old one signs too for 24 hours."""
        return await self._call(WebhookWithSecret, "POST", f"{_path(webhook_id)}/rotate", options)

    async def test_webhook(
        self, webhook_id: str, **options: Unpack[PostOptions]
    ) -> WebhookDelivery:
        """Send an event ``webhook.test``; the log of deliveries says what became of it."""
        return await self._call(WebhookDelivery, "POST", f"{_path(webhook_id)}/test", options)

    async def list_webhook_deliveries(
        self,
        webhook_id: str,
        *,
        status: DeliveryStatus | None = None,
        pagination: str | None = None,
        **options: Unpack[Options],
    ) -> WebhookDeliveryPage:
        """Return a page of a webhook's deliveries, newest first."""
        params = given(status=status, pagination=pagination)
        path = f"{_path(webhook_id)}/deliveries"
        return await self._call(WebhookDeliveryPage, "GET", path, options, params=params)

    async def iter_webhook_deliveries(
        self,
        webhook_id: str,
        *,
        status: DeliveryStatus | None = None,
        **options: Unpack[Options],
    ) -> AsyncGenerator[WebhookDelivery]:
        """Yield all deliveries of a webhook, newest first; ``timeout`` is for each page."""
        pagination: str | None = None
        while True:
            page = await self.list_webhook_deliveries(
                webhook_id, status=status, pagination=pagination, **options
            )
            for delivery in page.deliveries:
                yield delivery
            pagination = page.pagination
            if pagination is None:
                return

    async def redeliver_webhook(
        self, webhook_id: str, delivery_id: str, **options: Unpack[PostOptions]
    ) -> WebhookDelivery:
        """Send the event of a delivery again, as a new delivery."""
        path = f"{_path(webhook_id)}/deliveries/{segment(delivery_id)}/redeliver"
        return await self._call(WebhookDelivery, "POST", path, options)


def _path(webhook_id: str) -> str:
    return f"/v1/webhooks/{segment(webhook_id)}"
