import asyncio
import hashlib
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import func, select, update

from cakework.domain.orders import NodeProblem
from cakework.server.clock import now_ms
from cakework.server.loops.retention import KeptDays
from cakework.server.services.idempotency import KEPT_MS
from cakework.server.store.models import IdempotencyRow

from .fake_node import FakeNode
from .rig import DOCKERFILE, Json, Rig, running, settings_for, until

pytestmark = pytest.mark.anyio
START = "/v1/vm/start"
FILES = "/v1/image/build/files"


def once(key: str = "k-1") -> dict[str, str]:
    return {"Idempotency-Key": key}


async def test_the_same_key_and_body_do_the_work_once(rig: Rig) -> None:
    """The answer is the same to the byte, there is one VM, and the node was asked once."""
    body = {"imageId": await rig.image()}
    first = await rig.client.post(START, json=body, headers=once())
    again = await rig.client.post(START, json=body, headers=once())
    assert first.status_code == again.status_code == 200
    assert first.content == again.content
    assert first.headers["x-request-id"] != again.headers["x-request-id"]
    assert len(rig.node.vm_orders) == 1
    assert len((await rig.ok("GET", "/v1/vms"))["vms"]) == 1


async def test_another_body_or_call_with_the_key_is_refused(rig: Rig) -> None:
    """409, and nothing is done."""
    image_id = await rig.image()
    await rig.ok("POST", START, json={"imageId": image_id}, headers=once())
    for path, body in ((START, {"imageId": image_id, "cpu": 2}), (FILES, {"imageId": image_id})):
        problem = await rig.refused(409, "POST", path, json=body, headers=once())
        assert problem["code"] == "conflict"
    assert len(rig.node.vm_orders) == 1


async def test_requests_at_the_same_time_do_the_work_once(rig: Rig) -> None:
    """Ten at once with one key are answered alike, and there is one VM; likewise for builds."""
    body = {"imageId": await rig.image()}
    calls = [rig.client.post(START, json=body, headers=once()) for _ in range(10)]
    assert len({answer.content for answer in await asyncio.gather(*calls)}) == 1
    assert len(rig.node.vm_orders) == 1
    files: Json = {"dockerfile": DOCKERFILE, "files": []}
    builds = [rig.client.post(FILES, json=files, headers=once("k-2")) for _ in range(5)]
    assert len({answer.content for answer in await asyncio.gather(*builds)}) == 1
    await until(lambda: len(rig.node.build_orders) == 2, "the node has the order")


async def test_a_guess_cannot_be_tried_on_the_store(rig: Rig) -> None:
    """What is kept of a request is no digest of it, and not the same for two that are alike."""
    body = b'{"imageUri": "registry.example/app:1", "password": "12345"}'
    for key in ("k-1", "k-2"):
        headers = once(key) | {"Content-Type": "application/json"}
        await rig.ok("POST", "/v1/image/import", content=body, headers=headers)
    async with rig.server.database.reading() as session:
        kept = set(await session.scalars(select(IdempotencyRow.fingerprint)))
    assert len(kept) == 2
    digest = hashlib.sha256(b"POST\0/v1/image/import\0\0" + body).digest()
    assert digest not in kept
    assert hashlib.sha256(body).digest() not in kept


async def test_a_key_belongs_to_its_account(rig: Rig) -> None:
    """Another account may use the same key for something else."""
    await rig.ok("POST", FILES, json={"dockerfile": DOCKERFILE, "files": []}, headers=once())
    async with await rig.other_account() as theirs:
        body: Json = {"dockerfile": "FROM other", "files": []}
        response = await theirs.post(FILES, json=body, headers=once())
        assert response.status_code == 200


async def test_a_refusal_is_kept_too(rig: Rig) -> None:
    """What was refused stays refused alike, though it would succeed now."""
    first = await rig.client.post(START, json={"imageId": "x"}, headers=once())
    again = await rig.client.post(START, json={"imageId": "x"}, headers=once())
    assert first.status_code == again.status_code == 404
    assert first.content == again.content
    bad: Json = {"dockerfile": "", "files": []}
    first = await rig.client.post(FILES, json=bad, headers=once("k-2"))
    again = await rig.client.post(FILES, json=bad, headers=once("k-2"))
    assert first.status_code == 400
    assert first.content == again.content
    assert again.headers["content-type"] == "application/problem+json"


async def test_an_answer_that_invites_another_try_is_not_kept(rig: Rig) -> None:
    """After 503 the same key does the work."""
    body = {"imageId": await rig.image()}
    rig.node.refusal = (503, NodeProblem(code="no_room", detail="The host is full."))
    await rig.refused(503, "POST", START, json=body, headers=once())
    rig.node.refusal = None
    await rig.ok("POST", START, json=body, headers=once())


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "é".encode()])
async def test_a_key_that_is_none_is_refused(rig: Rig, key: str | bytes) -> None:
    """A key is 1 to 255 printable ASCII characters."""
    headers: Any = {"Idempotency-Key": key}
    problem = await rig.refused(400, "POST", START, json={"imageId": "x"}, headers=headers)
    assert problem["errors"][0]["field"] == "Idempotency-Key"


async def test_a_crash_in_between_does_the_work_once(
    folder: Path, database_url: str | None
) -> None:
    """A server that died after the order was given carries the same VM on with the same key."""
    settings = settings_for(folder, database_url)
    async with FakeNode(settings.node_socket).serving() as node:
        async with running(settings, node) as rig:
            body = {"imageId": await rig.image()}
            first = await rig.ok("POST", START, json=body, headers=once())
            async with rig.server.database.writing() as session:
                forgotten = {"status": None, "content_type": None, "body": None}
                await session.execute(update(IdempotencyRow).values(**forgotten))
        async with running(settings, node) as rig:
            again = await rig.ok("POST", START, json=body, headers=once())
            assert again == first
            assert len((await rig.ok("GET", "/v1/vms"))["vms"]) == 1


async def test_after_a_day_the_key_is_free(folder: Path, node: FakeNode) -> None:
    """24 hours later the same key does new work, and retention removes what is over."""
    at_ms = now_ms()
    async with running(settings_for(folder, None), node, lambda: at_ms) as rig:
        body = {"imageId": await rig.image()}
        first = await rig.ok("POST", START, json=body, headers=once())
        at_ms += KEPT_MS
        assert await rig.ok("POST", START, json=body, headers=once()) == first
        at_ms += 1
        assert (await rig.ok("POST", START, json=body, headers=once()))["id"] != first["id"]
        at_ms += KEPT_MS + 1
        await rig.retain(KeptDays(logs=0, stopped=0, vms=0, builds=0, deliveries=0), at_ms)
        async with rig.server.database.reading() as session:
            assert await session.scalar(select(func.count()).select_from(IdempotencyRow)) == 0
