"""importImage through HTTP, and starts that wait for an import."""

import asyncio
from typing import Any

import pytest

from cakework.domain.ids import AccountId, ImageId
from cakework.domain.orders import ImportOrder, NodeProblem
from cakework.node.imports.imports import CHECKS_AT_ONCE
from cakework.server.loops.imports import LOST
from cakework.server.services import imports as imports_module
from cakework.server.store.models import ImageRow, ImportRow

from .fake_node import FakeNode
from .rig import Json, Rig, as_problem, running, settings_for, until

pytestmark = pytest.mark.anyio
PATH = "/v1/image/import"
URI = "123456789012.dkr.ecr.us-west-2.amazonaws.com/team/app:1.2"
BODY: Json = {"imageUri": URI, "password": "of the registry"}
SILENT = "silent.example/app:1"
CALLER_S = 60
"""How long clients wait for an answer."""


async def imported(rig: Rig, **fields: Any) -> str:
    """Ask for an import; return the image's id."""
    answer = await rig.ok("POST", PATH, json={**BODY, **fields})
    assert set(answer) == {"imageId"}
    return answer["imageId"]


async def test_an_import_is_ordered(rig: Rig) -> None:
    """The node gets the whole order before the caller gets the id; ECR's user name is assumed."""
    image_id = await imported(rig)
    async with rig.server.database.reading() as session:
        account_id = (await session.get_one(ImportRow, image_id)).account_id
    expected = ImportOrder(
        image_id=image_id,
        account_id=account_id,
        image_uri=URI,
        username="AWS",
        password="of the registry",
    )
    assert rig.node.import_orders == [expected]


async def test_names_are_made_whole(rig: Rig) -> None:
    """A short name is Docker Hub's, as everywhere; the user name is the caller's."""
    await imported(rig, imageUri="docker://python", username="me", password="")
    order = rig.node.import_orders[0]
    assert (order.image_uri, order.username) == ("docker.io/library/python:latest", "me")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("imageUri", "https://registry.example/app"),
        ("imageUri", "registry.example/App"),
        ("imageUri", "registry.example/app@sha256:12"),
        ("imageUri", "-o/app"),
        ("imageUri", ""),
        ("imageUri", None),
        ("password", None),
        ("password", 1),
        ("username", "a:b"),
    ],
)
async def test_what_is_no_import_is_refused(rig: Rig, field: str, value: object) -> None:
    """The field at fault is named, what it held is not repeated, the node hears nothing."""
    problem = await rig.refused(400, "POST", PATH, json={**BODY, field: value})
    assert problem["code"] == "invalid_request"
    assert [fault["field"] for fault in problem["errors"]] == [field]
    assert "of the registry" not in str(problem)
    assert rig.node.import_orders == []


@pytest.mark.parametrize(
    ("code", "status", "fields"),
    [
        ("registry_denied", 400, ["username", "password"]),
        ("registry_unreachable", 400, ["imageUri"]),
        ("wrong_platform", 400, ["imageUri"]),
        ("image_not_in_registry", 404, []),
        ("unavailable", 503, []),
    ],
)
async def test_a_refusal_says_why(rig: Rig, code: str, status: int, fields: list[str]) -> None:
    """What the registry said reaches the caller, and nothing is left of the import."""
    rig.node.refusal = (status, NodeProblem(code=code, detail="as the registry says"))
    problem = await rig.refused(status, "POST", PATH, json=BODY)
    assert (problem["code"], problem["detail"]) == (code, "as the registry says")
    assert [fault["field"] for fault in problem.get("errors", [])] == fields
    rig.node.refusal = None
    image_id = rig.node.import_orders[0].image_id
    await rig.refused(404, "POST", "/v1/vm/start", json={"imageId": image_id})


async def test_a_start_waits_for_its_image(rig: Rig) -> None:
    """It is answered once the image is there, and not before."""
    image_id = await imported(rig)
    start = asyncio.create_task(rig.vm(image_id))
    done, _ = await asyncio.wait({start}, timeout=0.3)
    assert not done
    assert rig.node.vm_orders == []
    await rig.node.imported(image_id)
    assert (await start)["state"] == "started"
    async with rig.server.database.reading() as session:
        row = await session.get(ImageRow, image_id)
    assert row is not None
    assert row.size_bytes == 1000


async def test_a_start_waits_only_so_long(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before its caller goes away it is refused as what is to be asked again, and nothing is
    made; with the same key it is then started."""
    assert 40 < imports_module.WAIT_S < CALLER_S
    assert imports_module.WAIT_S + imports_module.WAIT_RETRY_S >= CALLER_S
    monkeypatch.setattr(imports_module, "WAIT_S", 0.05)
    image_id = await imported(rig)
    key = {"Idempotency-Key": "one"}
    for path in ("/v1/vm/start", "/v1/vm/cache"):
        answer = await rig.client.post(path, json={"imageId": image_id}, headers=key)
        assert as_problem(answer)["code"] == "unavailable"
        assert answer.status_code == 503
        assert answer.headers["Retry-After"] == f"{imports_module.WAIT_RETRY_S}"
        assert "still being imported" in answer.json()["detail"]
    assert await rig.ok("GET", "/v1/vms") == {"vms": []}
    monkeypatch.undo()
    await rig.node.imported(image_id)
    await until_ready(rig, image_id)
    vm = await rig.ok("POST", "/v1/vm/start", json={"imageId": image_id}, headers=key)
    assert vm["imageId"] == image_id


async def test_a_start_from_what_could_not_be_imported(rig: Rig) -> None:
    """It is refused with the reason, whether it waited or came later."""
    image_id = await imported(rig)
    body = {"imageId": image_id}
    start = asyncio.create_task(rig.refused(409, "POST", "/v1/vm/start", json=body))
    await rig.node.not_imported(image_id, "the disk for images is full")
    for problem in (await start, await rig.refused(409, "POST", "/v1/vm/start", json=body)):
        assert problem["detail"] == (
            f"Image {image_id} could not be imported: the disk for images is full."
        )


async def test_imports_are_of_one_account(rig: Rig) -> None:
    """Another account's start does not find it, nor wait for it."""
    image_id = await imported(rig)
    async with await rig.other_account() as other:
        response = await other.post("/v1/vm/start", json={"imageId": image_id})
    assert response.status_code == 404


async def test_a_request_repeated_with_its_key_imports_once(rig: Rig) -> None:
    """The same Idempotency-Key gives the same image."""
    headers = {"Idempotency-Key": "one"}
    answers = [await rig.ok("POST", PATH, json=BODY, headers=headers) for _ in range(2)]
    assert answers[0] == answers[1]
    assert len(rig.node.import_orders) == 1


async def test_the_password_is_kept_nowhere(rig: Rig) -> None:
    """No file of the server's has it, as it came or coded."""
    await imported(rig, password="Tr0ub4dor-and-3")
    files = [file for file in rig.settings.data_dir.rglob("*") if file.is_file()]
    assert files
    assert not [file for file in files if b"Tr0ub4dor" in file.read_bytes()]


async def test_an_account_has_so_many_imports(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more that has not ended is refused until another has."""
    monkeypatch.setattr("cakework.server.services.imports.MOST_UNFINISHED", 1)
    image_id = await imported(rig)
    await rig.refused(429, "POST", PATH, json=BODY)
    await rig.node.imported(image_id)
    await until_ready(rig, image_id)
    await imported(rig)


async def test_an_account_has_few_registries_asked_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those that hang hold up nobody else's imports, and its own for a moment only: then it is
    told when to come again, and nothing is made of it."""
    monkeypatch.setattr(imports_module, "TURN_S", 0.1)
    assert imports_module.ASKED_AT_ONCE * 4 <= CHECKS_AT_ONCE
    rig.node.silent.add(SILENT)
    hanging = [
        asyncio.create_task(imported(rig, imageUri=SILENT))
        for _ in range(imports_module.ASKED_AT_ONCE)
    ]
    await until(lambda: len(rig.node.import_orders) == len(hanging), "the node has the orders")
    problem = await rig.refused(429, "POST", PATH, json=BODY)
    assert problem["code"] == "quota_exceeded"
    async with await rig.other_account() as other:
        assert (await other.post(PATH, json=BODY)).status_code == 200
    rig.node.may_speak.set()
    ids = {await each for each in hanging}
    ids.add(await imported(rig))
    listed = (await rig.ok("GET", "/v1/images"))["images"]
    assert {image["imageId"] for image in listed} == ids


async def test_an_import_the_node_does_not_know_ends(
    folder: Any, node: FakeNode, database_url: str | None
) -> None:
    """After a crash before the order arrived, the record says so instead of waiting for ever."""
    settings = settings_for(folder, database_url)
    async with running(settings, node) as rig:
        image_id = await imported(rig)
    node.imports.clear()
    async with running(settings, node) as rig:
        problem = await rig.refused(409, "POST", "/v1/vm/start", json={"imageId": image_id})
        assert problem["detail"] == f"Image {image_id} could not be imported: {LOST}."


async def until_ready(rig: Rig, image_id: str) -> None:
    """Return when the account has the image."""
    await rig.server.imports.ready(AccountId("default"), ImageId(image_id))
    await until(lambda: image_id not in rig.node.imports, "the node has ended the import")
