"""Webhooks and who sends to them: makes triggers through the API, signs as providers do."""

import asyncio
import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2
from sqlalchemy import func, select
from standardwebhooks.webhooks import Webhook

from cakework.server.store.automation_models import ArrivalRow, TriggerRow
from cakework.server.store.function_models import InvocationRow

from .rig import Json
from .test_functions import Functions

ECHO = """\
def handler(event, context):
    data = event.get("data")
    if isinstance(data, dict) and data.get("fails"):
        error = ValueError("no stock")
        error.retriable = False
        raise error
    return {"event": event, "by": context.user_id}
"""
SECRET = "a secret of ours"
STANDARD = "whsec_" + base64.b64encode(b"0123456789abcdef0123456789abcdef").decode()
JSON = {"content-type": "application/json"}


@dataclass
class Hook:
    """A webhook at ``path``, signed with ``secret`` in the way of ``scheme``."""

    functions: Functions
    id: str
    function_id: str
    path: str
    scheme: str
    secret: str

    async def send(
        self, body: bytes, headers: dict[str, str] | None = None, secret: str | None = None
    ) -> httpx2.Response:
        """Send a delivery as its provider does, without a key."""
        given = {**JSON, **(headers or {})}
        given |= signed(self.scheme, secret or self.secret, body, given)
        return await self.post(body, given)

    async def post(self, body: bytes, headers: Any) -> httpx2.Response:
        """Send what is given, as it is."""
        base = self.functions.rig.client.base_url
        async with httpx2.AsyncClient(base_url=base, timeout=60, verify=False) as stranger:
            return await stranger.post(self.path, content=body, headers=headers)

    async def begin(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Begin to send a body of which one byte comes, and no more."""
        url = self.functions.rig.client.base_url
        reader, writer = await asyncio.open_connection(url.host, url.port)
        head = f"POST {self.path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: 1000\r\n\r\n{{".encode())
        await writer.drain()
        return reader, writer

    async def unfinished(self) -> Json:
        """Return the problem that a body is answered with of which one byte comes."""
        reader, writer = await self.begin()
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(
            int(line.partition(b":")[2])
            for line in head.lower().split(b"\r\n")
            if line.startswith(b"content-length:")
        )
        problem = json.loads(await reader.readexactly(length))
        writer.close()
        return problem

    async def event(self, answer: httpx2.Response) -> Json:
        """Return the event that the function was given for a delivery that was taken."""
        assert answer.status_code == 202, answer.text
        done = await self.functions.settled(answer.json()["invocationId"])
        assert done["state"] == "succeeded", done
        assert done["trigger"] == "webhook"
        assert done["triggerId"] == self.id
        return done["result"]["event"]

    async def made(self) -> int:
        """Return how many invocations it has made."""
        return await self._count(InvocationRow)

    async def arrivals(self) -> int:
        """Return how many arrivals are remembered."""
        return await self._count(ArrivalRow)

    async def row(self) -> TriggerRow:
        """Return its record."""
        async with self.functions.rig.server.database.reading() as session:
            found = await session.get(TriggerRow, self.id)
        assert found is not None
        return found

    async def _count(self, kind: type[InvocationRow] | type[ArrivalRow]) -> int:
        query = select(func.count()).select_from(kind).where(kind.trigger_id == self.id)
        async with self.functions.rig.server.database.reading() as session:
            return await session.scalar(query) or 0


async def hook(
    functions: Functions, scheme: str, function_id: str | None = None, **fields: Any
) -> Hook:
    """Make a webhook of a function, which is made too if it is not given. Of its fields those of
    the trigger are taken out, others are its configuration's."""
    function_id = function_id or await functions.made(ECHO)
    names = ("filter", "userId", "retry", "enabled")
    outer = {name: fields.pop(name) for name in names if name in fields}
    secret = {"standard": STANDARD, "basic": f"user:{SECRET}", "none": None}.get(scheme, SECRET)
    verify = {"scheme": scheme, **fields.pop("verify", {})}
    if secret is not None:
        verify["secret"] = secret
    body = {
        "functionId": function_id,
        "type": "webhook",
        "config": {"verify": verify, **fields},
        **outer,
    }
    made = await functions.rig.ok("POST", "/v1/triggers", json=body)
    path = made["url"].removeprefix(str(functions.rig.client.base_url).rstrip("/"))
    assert path.startswith("/in/")
    return Hook(functions, made["id"], function_id, path, scheme, secret or "")


def signed(scheme: str, secret: str, body: bytes, given: dict[str, str]) -> dict[str, str]:
    """Return the headers by which a provider signs."""
    now = str(int(time.time()))
    match scheme:
        case "standard":
            message = given.get("webhook-id", "msg_1")
            at = datetime.fromtimestamp(int(now), UTC)
            signature = Webhook(secret).sign(message, at, body.decode())
            return {
                "webhook-id": message,
                "webhook-timestamp": now,
                "webhook-signature": signature,
            }
        case "stripe":
            code = _hmac(secret, f"{now}.".encode() + body).hex()
            return {"Stripe-Signature": f"t={now},v1={code}"}
        case "github":
            return {"X-Hub-Signature-256": "sha256=" + _hmac(secret, body).hex()}
        case "slack":
            code = _hmac(secret, f"v0:{now}:".encode() + body).hex()
            return {"X-Slack-Request-Timestamp": now, "X-Slack-Signature": f"v0={code}"}
        case "shopify":
            code = base64.b64encode(_hmac(secret, body)).decode()
            return {"X-Shopify-Hmac-Sha256": code}
        case "hmac":
            return {"X-Signature": _hmac(secret, body).hex()}
        case "header":
            return {"X-Webhook-Secret": secret}
        case "basic":
            return {"Authorization": "Basic " + base64.b64encode(secret.encode()).decode()}
        case _:
            return {}


def told(**fields: Any) -> bytes:
    """Return fields as JSON."""
    return json.dumps(fields).encode()


def _hmac(secret: str, body: bytes) -> bytes:
    return hmac.digest(secret.encode(), body, hashlib.sha256)
