"""Every POST repeated with its Idempotency-Key, computed from the OpenAPI document: a new call
cannot be forgotten."""

import io
import json
import tarfile
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any, cast

import httpx2
import pytest
from sqlalchemy import func, select, update

from cakework.domain.functions import VersionState
from cakework.server.functions.dead_letters import DeadLetters
from cakework.server.functions.deploys import DeployLoop
from cakework.server.functions.dispatch import DispatchLoop
from cakework.server.functions.trials import Trials
from cakework.server.store.function_models import FunctionRow, InvocationRow, VersionRow
from cakework.server.store.models import Base, BuildRow, IdempotencyRow, VmRow
from cakework.server.store.webhook_models import WebhookEndpointRow

from .fake_node import FakeNode
from .rig import DOCKERFILE, Json, Rig, as_problem, running, settings_for
from .test_access import CALLS, DOCUMENT, function_ids

pytestmark = pytest.mark.anyio
ONCE = {"applyTransform"}
"""What is not kept is not answered again: whoever repeats it has it done again."""
POSTS = [(name, path) for name, method, path in CALLS if method == "POST" and name not in ONCE]
NOWHERE = "https://nowhere.invalid/"
MAIN = {"dir": ".", "name": "main.py"}
SOURCE: Json = {"files": [{**MAIN, "content": "def handler(event, context): pass\n"}]}
GITHUB: Json = {"token": "t", "repository": "org/repo", "branch": "main"}
BODIES: dict[str, Json] = {
    "importImage": {"imageUri": "registry.example/app:1", "password": ""},
    "buildImageFromFiles": {"dockerfile": DOCKERFILE, "files": []},
    "buildImageFromGithub": {"dockerfile": DOCKERFILE, **GITHUB},
    "startVM": {},
    "cacheVM": {},
    "forkCachedVM": {"count": 2},
    "createWebhook": {"url": NOWHERE, "events": ["webhook.test"]},
    "createFunction": {"name": "one", "runtime": "python", "source": SOURCE},
    "deployFunction": {"source": {"files": [{**MAIN, "content": "another = 1\n"}]}},
    "promoteVersion": {"version": 1},
    "testFunction": {"source": SOURCE, "wait": 0},
    "invokeFunction": {"mode": "async"},
    "replayInvocation": {},
    "replayDeadLetters": {"filter": {}},
    "discardDeadLetters": {"filter": {}},
    "previewSchedule": {"every": 60},
}
BOUNDARY = "parts"
MOVING = {
    *("status", "updatedAt"),
    *("attempts", "attemptedAt", "nextAttemptAt", "error"),
    "matched",
}
"""What work in the background changes of builds and of deliveries; how much was still to do."""
CHANGE_NOTHING = {"getBuildByPost", "promoteVersion"}
"""The second promotes what is live."""
LOOPS = (DeployLoop, Trials, DispatchLoop, DeadLetters)
"""What does the work of functions, which is not this test's."""


@pytest.fixture
async def rig(
    folder: Path, node: FakeNode, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Rig]:
    async def rest(_: object) -> None:
        """Do nothing."""

    for loop in LOOPS:
        monkeypatch.setattr(loop, "one_pass", rest)
    async with running(settings_for(folder, database_url), node) as rig:
        yield rig


def form() -> bytes:
    """Return code as a form has it, the same bytes each time."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("main.py"))
    fields = {"runtime": "python", "handlerFile": "main.py", "handlerFunction": "handler"}
    parts = [
        f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    head = 'Content-Disposition: form-data; name="archive"; filename="code.tar"'
    parts.append(f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + packed.getvalue())
    return b"".join(parts) + f"\r\n--{BOUNDARY}--\r\n".encode()


async def a_build(rig: Rig, _image_id: str) -> Json:
    return {"buildId": (await rig.build())["buildId"]}


async def a_vm(rig: Rig, image_id: str) -> Json:
    return {"vmId": (await rig.vm(image_id))["id"]}


async def a_cached_vm(rig: Rig, image_id: str) -> Json:
    vm = await rig.ok("POST", "/v1/vm/cache", json={"imageId": image_id})
    return {"vmId": vm["id"]}


async def one_that_runs(rig: Rig, image_id: str) -> Json:
    ids = await a_cached_vm(rig, image_id)
    await rig.ok("POST", f"/v1/vm/cached/{ids['vmId']}/start")
    return ids


async def one_with_a_snapshot(rig: Rig, image_id: str) -> Json:
    body = {"imageId": image_id, "snapshot": "ready"}
    vm_id = (await rig.ok("POST", "/v1/vm/cache", json=body))["id"]
    await rig.node.snapshot_made(vm_id)
    await rig.eventually(f"/v1/vm/{vm_id}", snapshot={"kind": "ready", "state": "made"})
    return {"vmId": vm_id}


async def a_webhook(rig: Rig, _image_id: str) -> Json:
    body = {"url": NOWHERE, "events": ["webhook.test"]}
    webhook = await rig.ok("POST", "/v1/webhooks", json=body)
    delivery = await rig.ok("POST", f"/v1/webhooks/{webhook['id']}/test")
    return {"webhookId": webhook["id"], "deliveryId": delivery["id"]}


async def a_function(rig: Rig, _image_id: str) -> Json:
    """With a version that could be live, and an invocation that waits."""
    for known in (await rig.ok("GET", "/v1/functions"))["functions"]:
        await rig.ok("DELETE", f"/v1/functions/{known['id']}")
    ids = await function_ids(rig)
    async with rig.server.database.writing() as session:
        await session.execute(update(VersionRow).values(state=VersionState.READY))
        await session.execute(update(FunctionRow).values(live_version=1))
    return ids


async def a_failure(rig: Rig, image_id: str) -> Json:
    """The same, and the invocation is a dead letter."""
    ids = await a_function(rig, image_id)
    async with rig.server.database.writing() as session:
        which = update(InvocationRow).where(InvocationRow.id == ids["invocationId"])
        ended = {"state": "failed", "ended_ms": InvocationRow.updated_ms}
        await session.execute(which.values(**ended))
    return ids


Make = Callable[[Rig, str], Awaitable[Json]]
MADE_FOR: dict[str, Make] = {
    "startCachedVM": a_cached_vm,
    "stopCachedVM": one_that_runs,
    "destroyCachedVM": one_that_runs,
    "forkCachedVM": one_with_a_snapshot,
    "replayInvocation": a_failure,
    "replayDeadLetters": a_failure,
    "discardDeadLetters": a_failure,
}
NAMED_IN: dict[str, Make] = {
    "{buildId}": a_build,
    "{vmId}": a_vm,
    "{webhookId}": a_webhook,
    "{functionId}": a_function,
    "{invocationId}": a_function,
    "dead-letters": a_function,
}
"""What a call is about, by its name, else by what its path names."""


async def address_of(rig: Rig, name: str, path: str, image_id: str) -> str:
    """Return the path of a call about something that was made for it."""
    for place, make in NAMED_IN.items():
        if place in path:
            return path.format(**await MADE_FOR.get(name, make)(rig, image_id))
    return path


async def work_of(rig: Rig) -> Json:
    """Return what is on record, what was asked of the node, and the secrets of webhooks.

    The node carries an order out once, however often it is given.
    """
    node, endpoints = rig.node, rig.server.webhooks.endpoints
    found: Json = {
        "runs": {(order.vm_id, order.run) for order in node.vm_orders},
        "imports": {order.image_id for order in node.import_orders},
        "stops": len(node.stops),
    }
    async with rig.server.database.reading() as session:
        for table in set(Base.metadata.sorted_tables) - {IdempotencyRow.__table__}:
            found[table.name] = await session.scalar(select(func.count()).select_from(table))
        states = select(VmRow.id, VmRow.state, VmRow.run)
        found["states"] = {*await session.execute(states)}
        found["ends"] = {*await session.execute(select(BuildRow.id, BuildRow.status))}
        rows = await session.scalars(select(WebhookEndpointRow))
        functions = select(FunctionRow.id, FunctionRow.live_version, FunctionRow.last_version)
        found["live"] = {*await session.execute(functions)}
        row = InvocationRow
        asked = select(row.id, row.state, row.settled_ms.is_(None), row.replay_ms.is_(None))
        found["work"] = {*await session.execute(asked)}
        found["secrets"] = {row.id: endpoints.secrets_of(row) for row in rows}
    return found


async def forget_answers(rig: Rig) -> None:
    """Leave what a crash between the work and its answer leaves."""
    async with rig.server.database.writing() as session:
        forgotten = {"status": None, "content_type": None, "body": None}
        await session.execute(update(IdempotencyRow).values(**forgotten))


def lasting(answer: object) -> Any:
    """Return an answer without what changes by itself."""
    if isinstance(answer, list):
        return [lasting(each) for each in cast("list[object]", answer)]
    if not isinstance(answer, dict):
        return answer
    fields = cast("Json", answer).items()
    return {name: lasting(value) for name, value in fields if name not in MOVING}


def test_every_post_takes_a_key() -> None:
    """The document says so, and that another request with the key is refused."""
    for name, path in POSTS:
        operation = DOCUMENT["paths"][path]["post"]
        headers = {each["name"] for each in operation["parameters"] if each["in"] == "header"}
        assert "Idempotency-Key" in headers, name
        assert "409" in operation["responses"], name


async def test_every_post_does_its_work_once_for_a_key(rig: Rig) -> None:
    """Repeated it is answered to the byte as before; when that answer was lost in a crash it is
    given again; with another body it is refused. None of that makes, asks or changes anything."""
    image_id = await rig.image()
    for name, path in POSTS:
        address = await address_of(rig, name, path, image_id)
        body = BODIES.get(name)
        if name in ("startVM", "cacheVM"):
            body = {"imageId": image_id}
        key = {"Idempotency-Key": name}
        kind, content = "application/json", json.dumps(body).encode() if body is not None else b""
        if name == "deployFunctionFromArchive":
            kind, content = f"multipart/form-data; boundary={BOUNDARY}", form()

        async def send(
            address: str = address,
            headers: dict[str, str] = key | {"Content-Type": kind},
            content: bytes = content,
        ) -> httpx2.Response:
            return await rig.client.post(address, content=content, headers=headers)

        before = await work_of(rig)
        first = await send()
        assert first.status_code in (200, 202), (name, first.text)
        done = await work_of(rig)
        assert (done == before) == (name in CHANGE_NOTHING), name
        again = await send()
        assert (again.status_code, again.content) == (first.status_code, first.content), name
        await forget_answers(rig)
        given_again = await send()
        assert given_again.status_code == first.status_code, (name, given_again.text)
        assert lasting(given_again.json()) == lasting(first.json()), name
        spaced = b" " + json.dumps(body or {}).encode()
        said = {**key, "Content-Type": "application/json"}
        other = await rig.client.post(address, content=spaced, headers=said)
        assert (other.status_code, as_problem(other)["code"]) == (409, "conflict"), name
        assert await work_of(rig) == done, name
