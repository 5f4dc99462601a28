"""Calls about webhooks: endpoints, their secrets, tests, the delivery log."""

from dataclasses import dataclass
from typing import Annotated

from fastapi import APIRouter, Path, Query
from pydantic import BaseModel, ConfigDict, Field
from pydantic.json_schema import SkipJsonSchema

from cakework.domain.errors import (
    CakeworkError,
    Conflict,
    InvalidRequest,
    NotFound,
    QuotaExceeded,
    Unauthenticated,
)
from cakework.server.api.account_route import Account, Door, Token
from cakework.server.api.problems import BODY_ERRORS, responses
from cakework.server.api.times import rfc3339
from cakework.server.api.wire import AnswerBody, RequestBody, Text
from cakework.server.store.webhook_models import DeliveryStatus, WebhookEndpointRow
from cakework.server.webhooks.deliveries import Deliveries, Delivery
from cakework.server.webhooks.endpoints import (
    DISABLED_BY_OWNER,
    Endpoints,
    NewEndpoint,
    Shown,
)
from cakework.server.webhooks.events import DELIVERY_ID_PATTERN, ENDPOINT_ID_PATTERN, EventType

URL_CHARS_MAX = 2000
DESCRIPTION_CHARS_MAX = 500
_NO_NUL = r"^[^\x00]*$"
_EVENTS = "Events to send; if absent all of them but `invocation.succeeded`, which has to be named."
_URL = "Where events are sent, with POST: https://, a public address."
_DESCRIPTION = "What it is for, for people."
EndpointIdPath = Annotated[
    str, Path(alias="webhookId", pattern=ENDPOINT_ID_PATTERN, description="Id of the webhook.")
]
DeliveryIdPath = Annotated[
    str, Path(alias="deliveryId", pattern=DELIVERY_ID_PATTERN, description="Id of the delivery.")
]
_Url = Annotated[Text, Field(min_length=1, max_length=URL_CHARS_MAX, pattern=_NO_NUL)]
_Description = Annotated[Text, Field(max_length=DESCRIPTION_CHARS_MAX, pattern=_NO_NUL)]
_Event = Annotated[EventType, Field(strict=False)]
_Events = Annotated[list[_Event], Field(min_length=1, max_length=len(EventType))]


class CreateWebhook(RequestBody):
    """What createWebhook takes."""

    url: _Url = Field(description=_URL)
    events: _Events | None = Field(default=None, description=_EVENTS)
    description: _Description | None = Field(default=None, description=_DESCRIPTION)


class UpdateWebhook(RequestBody):
    """What updateWebhook takes: what is absent stays, and so do url and enabled when null."""

    url: _Url | None = Field(default=None, description=_URL)
    events: _Events | None = Field(
        default=None, description="Events to send; null for all of them but `invocation.succeeded`."
    )
    description: _Description | None = Field(default=None, description=_DESCRIPTION)
    enabled: bool | None = Field(
        default=None,
        description="false ends what is pending and sends nothing more; true begins anew.",
    )

    def changes(self) -> dict[str, object]:
        """Return what is to be set in the record."""
        changes: dict[str, object] = {}
        if self.url is not None:
            changes["url"] = self.url
        for name in {"events", "description"} & self.model_fields_set:
            changes[name] = getattr(self, name)
        if self.enabled is not None:
            changes["disabled_reason"] = None if self.enabled else DISABLED_BY_OWNER
        return changes


class Webhook(AnswerBody):
    """A webhook: an endpoint that events are sent to."""

    id: str = Field(description="Id of the webhook.", pattern=ENDPOINT_ID_PATTERN)
    url: str = Field(description=_URL)
    events: list[EventType] | SkipJsonSchema[None] = Field(default=None, description=_EVENTS)
    description: str | SkipJsonSchema[None] = Field(default=None, description=_DESCRIPTION)
    enabled: bool = Field(description="Whether events are sent to it.")
    disabled_reason: str | SkipJsonSchema[None] = Field(
        default=None, description="Why nothing is sent to it; absent unless it is disabled."
    )
    missed: int = Field(
        description="How many ends of invocations it was not told of, since 10,000 deliveries were "
        "pending for it."
    )
    created_at: str = Field(
        description="When it was made.", json_schema_extra={"format": "date-time"}
    )
    updated_at: str = Field(
        description="When it was last changed.", json_schema_extra={"format": "date-time"}
    )


class WebhookWithSecret(Webhook):
    """A webhook with its secret, which is shown only now."""

    secret: str = Field(
        description="Secret that deliveries are signed with, `whsec_…`. It is not shown again."
    )


class WebhookList(AnswerBody):
    """The webhooks of the account."""

    webhooks: list[Webhook] = Field(description="Webhooks, oldest first.")


class WebhookDelivery(AnswerBody):
    """An event on its way to a webhook, and how the last attempt went."""

    id: str = Field(description="Id of the delivery.", pattern=DELIVERY_ID_PATTERN)
    event_id: str = Field(description="Id of the event: `webhook-id` of every attempt.")
    event_type: EventType = Field(description="What happened.")
    status: DeliveryStatus = Field(
        description="pending: to be attempted (again); succeeded: answered 2xx; failed: given up."
    )
    attempts: int = Field(description="Attempts so far.")
    response_status: int | SkipJsonSchema[None] = Field(
        default=None, description="HTTP status of the last answer; absent when there was none."
    )
    response_body: str | SkipJsonSchema[None] = Field(
        default=None, description="Beginning of the last answer's body."
    )
    error: str | SkipJsonSchema[None] = Field(
        default=None, description="Why there was no answer, for people."
    )
    created_at: str = Field(
        description="When it was to be sent.", json_schema_extra={"format": "date-time"}
    )
    attempted_at: str | SkipJsonSchema[None] = Field(
        default=None,
        description="When the last attempt began.",
        json_schema_extra={"format": "date-time"},
    )
    next_attempt_at: str | SkipJsonSchema[None] = Field(
        default=None,
        description="When the next attempt is due; absent unless it is pending.",
        json_schema_extra={"format": "date-time"},
    )


class WebhookDeliveryPage(AnswerBody):
    """A page of the delivery log."""

    deliveries: list[WebhookDelivery] = Field(description="Deliveries, newest first, at most 100.")
    pagination: str | SkipJsonSchema[None] = Field(
        default=None, description="Token for the next page; absent on the last one."
    )


class DeliveryParameters(BaseModel):
    """What listWebhookDeliveries takes."""

    model_config = ConfigDict(extra="ignore", hide_input_in_errors=True)

    status: DeliveryStatus | None = Field(
        default=None, description="Only deliveries of this status."
    )
    pagination: str | None = Field(
        default=None,
        pattern=DELIVERY_ID_PATTERN,
        description="Token that the page before gave.",
    )


@dataclass(frozen=True, slots=True)
class WebhookRoutes:
    """The calls about webhooks."""

    endpoints: Endpoints
    deliveries: Deliveries

    def router(self, door: Door) -> APIRouter:
        """Return the calls, each entered through ``door``."""
        router = APIRouter(tags=["Webhooks"], route_class=door.route_class(), prefix="/v1/webhooks")
        self._add_endpoints(router)
        self._add_deliveries(router)
        return router

    def _add_endpoints(self, router: APIRouter) -> None:
        always = (Unauthenticated, InvalidRequest, CakeworkError)
        posted = (*always, Conflict, *BODY_ERRORS)
        one = "/{webhookId}"
        calls = (
            ("POST", "", self.create, "createWebhook", "Have events sent to a URL"),
            ("GET", "", self.list, "listWebhooks", "List webhooks"),
            ("GET", one, self.get, "getWebhook", "Look at a webhook"),
            ("PATCH", one, self.update, "updateWebhook", "Change, disable or enable a webhook"),
            ("DELETE", one, self.delete, "deleteWebhook", "Remove a webhook and its log"),
            ("POST", f"{one}/rotate", self.rotate, "rotateWebhookSecret", "Change the secret"),
        )
        for method, path, call, name, summary in calls:
            errors = {"POST": posted, "PATCH": (*always, *BODY_ERRORS)}.get(method, always)
            extra = (NotFound,) if path else (QuotaExceeded,) if method == "POST" else ()
            router.add_api_route(
                path,
                call,
                methods=[method],
                operation_id=name,
                summary=summary,
                responses=responses(*errors, *extra),
                response_model_exclude_none=True,
            )

    def _add_deliveries(self, router: APIRouter) -> None:
        always = (Unauthenticated, InvalidRequest, CakeworkError, NotFound)
        one = "/{webhookId}"
        log = f"{one}/deliveries"
        again = f"{log}/{{deliveryId}}/redeliver"
        calls = (
            ("POST", f"{one}/test", self.test, "testWebhook", "Send a test event"),
            ("GET", log, self.log, "listWebhookDeliveries", "List deliveries, newest first"),
            ("POST", again, self.redeliver, "redeliverWebhook", "Send an event once more"),
        )
        for method, path, call, name, summary in calls:
            posted = (*always, Conflict, QuotaExceeded, *BODY_ERRORS)
            errors = posted if method == "POST" else always
            router.add_api_route(
                path,
                call,
                methods=[method],
                operation_id=name,
                summary=summary,
                responses=responses(*errors),
                response_model_exclude_none=True,
            )

    async def create(
        self, account: Account, token: Token, body: CreateWebhook
    ) -> WebhookWithSecret:
        """Have events sent to a URL from now on; the answer has the secret, this once."""
        new = NewEndpoint(body.url, body.events, body.description)
        return _with_secret(await self.endpoints.create(account, new, token))

    async def list(self, account: Account) -> WebhookList:
        """List the account's webhooks."""
        rows = await self.endpoints.list(account)
        return WebhookList(webhooks=[_webhook(row) for row in rows])

    async def get(self, account: Account, webhook_id: EndpointIdPath) -> Webhook:
        """Look at a webhook."""
        return _webhook(await self.endpoints.get(account, webhook_id))

    async def update(
        self, account: Account, webhook_id: EndpointIdPath, body: UpdateWebhook
    ) -> Webhook:
        """Change what the body names. Enabling one that was disabled does not send what was
        missed."""
        return _webhook(await self.endpoints.change(account, webhook_id, body.changes()))

    async def delete(self, account: Account, webhook_id: EndpointIdPath) -> Webhook:
        """Remove a webhook, what is pending for it, and its log."""
        return _webhook(await self.endpoints.delete(account, webhook_id))

    async def rotate(
        self, account: Account, token: Token, webhook_id: EndpointIdPath
    ) -> WebhookWithSecret:
        """Make a new secret, shown this once. For 24 hours deliveries carry the signature of the
        one before as well."""
        return _with_secret(await self.endpoints.rotate(account, webhook_id, token))

    async def test(
        self, account: Account, token: Token, webhook_id: EndpointIdPath
    ) -> WebhookDelivery:
        """Send the event `webhook.test`, retried like any other."""
        return _delivery(await self.deliveries.test(account, webhook_id, token))

    async def log(
        self,
        account: Account,
        webhook_id: EndpointIdPath,
        parameters: Annotated[DeliveryParameters, Query()],
    ) -> WebhookDeliveryPage:
        """List deliveries, newest first, 100 a page."""
        found, token = await self.deliveries.page(
            account, webhook_id, parameters.status, parameters.pagination
        )
        return WebhookDeliveryPage(deliveries=[_delivery(each) for each in found], pagination=token)

    async def redeliver(
        self,
        account: Account,
        token: Token,
        webhook_id: EndpointIdPath,
        delivery_id: DeliveryIdPath,
    ) -> WebhookDelivery:
        """Send the event of a delivery once more, with the same id, as a new delivery."""
        return _delivery(await self.deliveries.repeat(account, webhook_id, delivery_id, token))


def _webhook(row: WebhookEndpointRow) -> Webhook:
    return Webhook(
        id=row.id,
        url=row.url,
        events=None if row.events is None else [EventType(name) for name in row.events],
        description=row.description,
        enabled=row.disabled_reason is None,
        disabled_reason=row.disabled_reason,
        missed=row.missed,
        created_at=rfc3339(row.created_ms),
        updated_at=rfc3339(row.updated_ms),
    )


def _with_secret(shown: Shown) -> WebhookWithSecret:
    return WebhookWithSecret(**_webhook(shown.row).model_dump(by_alias=False), secret=shown.secret)


def _delivery(delivery: Delivery) -> WebhookDelivery:
    row = delivery.row
    return WebhookDelivery(
        id=row.id,
        event_id=row.event_id,
        event_type=EventType(delivery.event_type),
        status=DeliveryStatus(row.status),
        attempts=row.attempts,
        response_status=row.response_status,
        response_body=row.response_body,
        error=row.error,
        created_at=rfc3339(row.created_ms),
        attempted_at=None if row.attempted_ms is None else rfc3339(row.attempted_ms),
        next_attempt_at=None if row.next_ms is None else rfc3339(row.next_ms),
    )
