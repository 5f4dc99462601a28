"""How the parts of webhooks are put together."""

import asyncio
from dataclasses import dataclass

from cakework.server.clock import Clock
from cakework.server.loops.loop import Loop
from cakework.server.store.database import Database
from cakework.server.store.sealing import Sealer
from cakework.server.webhooks.addresses import Guard, parse_allowed
from cakework.server.webhooks.deliveries import Deliveries
from cakework.server.webhooks.endpoints import Endpoints
from cakework.server.webhooks.loop import DeliveryLoop
from cakework.server.webhooks.outbox import Outbox, Shapes
from cakework.server.webhooks.sender import Sender, trusted
from cakework.settings import Settings

DELIVERY_PERIOD_S = 1.0


@dataclass(frozen=True, slots=True)
class WebhookParts:
    """The parts that webhooks are made of."""

    guard: Guard
    outbox: Outbox
    endpoints: Endpoints
    deliveries: Deliveries
    pending: DeliveryLoop
    loop: Loop


def webhook_parts(
    settings: Settings, database: Database, sealer: Sealer, shapes: Shapes, clock: Clock
) -> WebhookParts:
    """Return the parts of webhooks, not yet open; ``shapes`` is what is told of things."""
    hint = asyncio.Event()
    guard = Guard(parse_allowed(settings.webhook_allow))
    outbox = Outbox(shapes, clock, hint.set)
    endpoints = Endpoints(database, sealer, guard, clock)
    sender = Sender(guard, trusted(settings.extra_ca))
    pending = DeliveryLoop(database, endpoints, sender, clock, hint.set)
    return WebhookParts(
        guard=guard,
        outbox=outbox,
        endpoints=endpoints,
        deliveries=Deliveries(database, outbox),
        pending=pending,
        loop=Loop("webhooks", pending.one_pass, DELIVERY_PERIOD_S, hint),
    )
