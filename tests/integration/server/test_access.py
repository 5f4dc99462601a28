"""Who may call what, computed from the OpenAPI document: a new call cannot be forgotten."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from cakework.domain.errors import Conflict
from cakework.domain.ids import AccountId, FunctionId
from cakework.server import keys_admin
from cakework.server.functions.invocations import NewInvocation
from cakework.server.openapi import document
from cakework.server.services.keys import VERIFIED_FOR_S, Keys
from cakework.server.store.function_models import FunctionRow

from .fake_node import FakeNode
from .rig import KEY, Json, Rig, as_problem, eventually, running, settings_for

pytestmark = pytest.mark.anyio
OPEN_TO_ALL = {"healthz", "readyz"}
BODIES: dict[str, Json] = {
    "buildImageFromFiles": {"dockerfile": "FROM x", "files": []},
    "startVM": {"imageId": "0" * 26},
    "cacheVM": {"imageId": "0" * 26},
    "forkCachedVM": {"count": 1},
    "createWebhook": {"url": "https://example.com/"},
    "updateWebhook": {},
    "createFunction": {"name": "f", "runtime": "python"},
    "updateFunction": {"settings": {}},
    "deployFunction": {"source": {"files": [{"dir": ".", "name": "main.py", "content": ""}]}},
    "promoteVersion": {"version": 1},
    "putDraft": {"files": [{"dir": ".", "name": "main.py", "content": ""}]},
    "testFunction": {},
    "deployFunctionFromArchive": {
        "runtime": "python",
        "handlerFile": "main.py",
        "handlerFunction": "handler",
    },
    "putSecret": {"value": "x"},
    "invokeFunction": {"mode": "async"},
    "replayDeadLetters": {"filter": {}},
    "discardDeadLetters": {"filter": {}},
    "createTrigger": {
        "functionId": "fn_" + "0" * 26,
        "type": "webhook",
        "config": {"verify": {"scheme": "github"}},
    },
    "updateTrigger": {},
    "previewSchedule": {"every": 60},
    "emitEvents": {"events": [{"type": "order.paid"}]},
    "testFilter": {"filter": {}, "event": {}},
}
MAKES_OF = {"startVM": "imageId", "cacheVM": "imageId", "createTrigger": "functionId"}
"""What makes something of what its body names."""
OF_NAMES = {"putSecret"}
"""What has a name that each account has its own of: where another's is, it makes one's own. It is
called last: what it made would be found by the others."""
DOCUMENT: Json = json.loads(document())


def calls() -> Iterator[tuple[str, str, str]]:
    """Yield operation id, method and path of every call that needs a key."""
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            if operation["operationId"] not in OPEN_TO_ALL:
                yield operation["operationId"], method.upper(), path


CALLS = list(calls())


async def webhook_ids(rig: Rig) -> dict[str, str]:
    """Make a webhook with a delivery; returns their ids by the names that paths have."""
    webhook = await rig.ok("POST", "/v1/webhooks", json=BODIES["createWebhook"])
    delivery = await rig.ok("POST", f"/v1/webhooks/{webhook['id']}/test")
    return {"webhookId": webhook["id"], "deliveryId": delivery["id"]}


def ids_of(rig: Rig, vm: Json) -> dict[str, str]:
    """Return the ids of a VM and what it came from, by the names that paths have."""
    order = rig.node.build_orders[0]
    return {"buildId": order.build_id, "imageId": order.image_id, "vmId": vm["id"]}


async def function_ids(rig: Rig) -> dict[str, str]:
    """Make a function with a version and an invocation; returns their ids likewise."""
    source = BODIES["deployFunction"]["source"]
    body = {**BODIES["createFunction"], "source": source}
    function_id = FunctionId((await rig.ok("POST", "/v1/functions", json=body))["id"])
    async with rig.server.database.writing() as session:
        row = await session.get(FunctionRow, function_id)
        assert row is not None
        row.live_version = 1
    later = NewInvocation({}, delay_s=600)
    made = await rig.server.functions.invocations.take(AccountId("default"), function_id, later)
    await rig.ok("PUT", "/v1/secrets/TOKEN", json=BODIES["putSecret"])
    return {"functionId": function_id, "version": "1", "invocationId": made.id, "name": "TOKEN"}


async def trigger_ids(rig: Rig, function_id: str) -> dict[str, str]:
    """Make a webhook of a function, and an event that it is not for; returns their ids likewise."""
    body = {**BODIES["createTrigger"], "functionId": function_id}
    trigger = await rig.ok("POST", "/v1/triggers", json=body)
    response = await rig.client.post("/v1/events", json=BODIES["emitEvents"])
    assert response.status_code == 202, response.text
    return {"triggerId": trigger["id"], "eventId": response.json()["events"][0]["id"]}


async def all_ids(rig: Rig, vm: Json) -> dict[str, str]:
    """Make one of everything; returns their ids by the names that paths have."""
    ids = {**ids_of(rig, vm), **await webhook_ids(rig), **await function_ids(rig)}
    return {**ids, **await trigger_ids(rig, ids["functionId"])}


def test_every_call_of_the_contract_is_there() -> None:
    """Names, methods and paths of this stage are in the document, each in every spelling."""
    assert {(method, path) for _, method, path in CALLS} == {
        ("POST", "/v1/image/import"),
        ("POST", "/v1/transforms/{functionId}/apply"),
        ("GET", "/v1/images"),
        ("GET", "/v1/image/{imageId}"),
        ("DELETE", "/v1/image/{imageId}"),
        ("POST", "/v1/image/build/files"),
        ("POST", "/v1/image/build/github"),
        ("GET", "/v1/image/build/{buildId}"),
        ("POST", "/v1/image/build/{buildId}"),
        ("GET", "/v1/image/build/{buildId}/logs"),
        ("GET", "/v1/function/build/{buildId}/logs"),
        ("POST", "/v1/vm/start"),
        ("POST", "/v1/vm/{vmId}/stop"),
        ("POST", "/v1/vm/{vmId}/destroy"),
        ("POST", "/v1/vm/cache"),
        ("POST", "/v1/vm/cached/{vmId}/start"),
        ("POST", "/v1/vm/cached/{vmId}/stop"),
        ("POST", "/v1/vm/cached/{vmId}/destroy"),
        ("POST", "/v1/vm/cached/{vmId}/fork"),
        ("GET", "/v1/vm/cached/{vmId}/logs"),
        ("GET", "/v1/vm/{vmId}"),
        ("GET", "/v1/vm/{vmId}/logs"),
        ("GET", "/v1/vms"),
        ("GET", "/vms"),
        ("GET", "/v1/image/builds"),
        ("POST", "/v1/image/build/{buildId}/cancel"),
        ("POST", "/v1/webhooks"),
        ("GET", "/v1/webhooks"),
        ("GET", "/v1/webhooks/{webhookId}"),
        ("PATCH", "/v1/webhooks/{webhookId}"),
        ("DELETE", "/v1/webhooks/{webhookId}"),
        ("POST", "/v1/webhooks/{webhookId}/rotate"),
        ("POST", "/v1/webhooks/{webhookId}/test"),
        ("GET", "/v1/webhooks/{webhookId}/deliveries"),
        ("POST", "/v1/webhooks/{webhookId}/deliveries/{deliveryId}/redeliver"),
        ("POST", "/v1/functions"),
        ("GET", "/v1/functions"),
        ("GET", "/v1/functions/{functionId}"),
        ("PATCH", "/v1/functions/{functionId}"),
        ("DELETE", "/v1/functions/{functionId}"),
        ("POST", "/v1/functions/{functionId}/versions"),
        ("GET", "/v1/functions/{functionId}/versions"),
        ("GET", "/v1/functions/{functionId}/versions/{version}"),
        ("GET", "/v1/functions/{functionId}/versions/{version}/source"),
        ("POST", "/v1/functions/{functionId}/promote"),
        ("POST", "/v1/function/deploy/archive"),
        ("GET", "/v1/functions/{functionId}/draft"),
        ("PUT", "/v1/functions/{functionId}/draft"),
        ("DELETE", "/v1/functions/{functionId}/draft"),
        ("POST", "/v1/functions/{functionId}/test"),
        ("GET", "/v1/functions/{functionId}/logs"),
        ("POST", "/v1/functions/{functionId}/invoke"),
        ("GET", "/v1/invocations"),
        ("GET", "/v1/invocations/{invocationId}"),
        ("GET", "/v1/invocations/{invocationId}/event"),
        ("GET", "/v1/invocations/{invocationId}/result"),
        ("POST", "/v1/invocations/{invocationId}/cancel"),
        ("POST", "/v1/invocations/{invocationId}/replay"),
        ("GET", "/v1/invocations/{invocationId}/logs"),
        ("GET", "/v1/dead-letters"),
        ("POST", "/v1/dead-letters/replay"),
        ("POST", "/v1/dead-letters/discard"),
        ("GET", "/v1/secrets"),
        ("PUT", "/v1/secrets/{name}"),
        ("DELETE", "/v1/secrets/{name}"),
        ("POST", "/v1/triggers"),
        ("GET", "/v1/triggers"),
        ("GET", "/v1/triggers/{triggerId}"),
        ("PATCH", "/v1/triggers/{triggerId}"),
        ("DELETE", "/v1/triggers/{triggerId}"),
        ("POST", "/v1/triggers/{triggerId}/run"),
        ("POST", "/v1/triggers/{triggerId}/rotate"),
        ("POST", "/v1/schedules/preview"),
        ("POST", "/v1/events"),
        ("GET", "/v1/events"),
        ("GET", "/v1/events/{eventId}"),
        ("POST", "/v1/events/match"),
    }


@pytest.mark.parametrize(("name", "method", "path"), CALLS)
async def test_every_call_needs_a_key_and_says_so(name: str, method: str, path: str) -> None:
    """The document declares the key for each call that is not open to all."""
    operation = DOCUMENT["paths"][path][method.lower()]
    assert operation["security"] == [{"ApiKey": []}]
    assert "401" in operation["responses"]


async def test_no_call_answers_without_a_valid_key(rig: Rig) -> None:
    """Each call refuses a missing key, an empty and a wrong one, before it looks at anything."""
    vm = await rig.vm()
    ids = await all_ids(rig, vm)
    for name, method, path in CALLS:
        address = path.format(**ids)
        for key in ("", "wrong", KEY + "x", KEY[:-1], "cw_é"):
            headers = {b"X-Api-Key": key.encode()}
            body = BODIES.get(name)
            response = await rig.client.request(method, address, headers=headers, json=body)
            assert response.status_code == 401, (name, key)
            assert as_problem(response)["code"] == "unauthenticated"
    assert (await rig.ok("GET", f"/v1/vm/{vm['id']}"))["state"] == "started"


async def test_what_is_anothers_is_not_there(rig: Rig) -> None:
    """Each call with an id gets 404 for another account's, and lists show nothing of it."""
    vm = await rig.vm()
    order = rig.node.build_orders[0]
    ids = await all_ids(rig, vm)
    trigger = await rig.ok("GET", f"/v1/triggers/{ids['triggerId']}")
    secrets = await rig.ok("GET", "/v1/secrets")
    async with await rig.other_account() as theirs:
        assert (await theirs.get("/v1/webhooks")).json() == {"webhooks": []}
        for name, method, path in sorted(CALLS, key=lambda call: call[0] in OF_NAMES):
            address = path.format(**ids)
            body = BODIES.get(name)
            if of := MAKES_OF.get(name):
                body = {**(body or {}), of: ids[of]}
            response = await theirs.request(method, address, json=body)
            if ("{" in path or of) and name not in OF_NAMES:
                assert response.status_code == 404, name
                as_problem(response)
            elif name.startswith("listVMs"):
                assert response.json() == {"vms": []}
            elif name == "listBuilds":
                assert order.build_id not in response.text
            elif name == "listFunctions":
                assert ids["functionId"] not in response.text
            elif name in ("listInvocations", "listDeadLetters"):
                assert response.json() == {"invocations": []}
            elif name.endswith("DeadLetters"):
                assert response.json() == {"matched": 0}
            elif name == "listImages":
                assert order.image_id not in response.text
            elif name == "listSecrets":
                assert response.json() == {"secrets": []}
            elif name == "listTriggers":
                assert response.json() == {"triggers": []}
            elif name == "listEvents":
                assert ids["eventId"] not in response.text
        filtered = await theirs.get("/v1/vms", params={"imageId": order.image_id})
        assert filtered.json() == {"vms": []}
    assert await rig.ok("GET", "/v1/secrets") == secrets
    assert await rig.ok("GET", "/v1/triggers") == {"triggers": [trigger]}
    assert len((await rig.ok("GET", "/v1/events"))["events"]) == 1
    assert (await rig.ok("GET", f"/v1/vm/{vm['id']}"))["state"] == "started"


async def test_unknown_ids_addresses_and_methods_are_problems(rig: Rig) -> None:
    """404 and 405 are problems too; 405 says what the address takes."""
    for path in ("/v1", "/v1/nope", "/v1/vm/", "/v1/vms/", "/redoc", "/%00", "/" + "a" * 300):
        await rig.refused(404, "GET", path)
    for vm_id in ("0" * 14, "x", "0" * 15, "%00", "a" * 3000):
        await rig.refused(404, "GET", f"/v1/vm/{vm_id}")
        await rig.refused(404, "POST", f"/v1/vm/{vm_id}/stop")
        await rig.refused(404, "GET", f"/v1/vm/{vm_id}/logs")
        await rig.refused(404, "GET", f"/v1/image/build/{vm_id}")
    await rig.refused(405, "PATCH", "/v1/vms")
    for path in ("/v1/vm/start", "/v1/image/build/files"):
        response = await rig.client.get(path)
        assert response.headers["allow"] == "POST"
        assert as_problem(response)["status"] == 405
    response = await rig.client.delete("/v1/image/build/x")
    assert response.headers["allow"] == "GET, POST"
    assert as_problem(response)["code"] == "method_not_allowed"


async def test_health_needs_no_key(folder: Path) -> None:
    """/healthz answers while the node is away, /readyz says 503, each without a key."""
    settings = settings_for(folder, None)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        rig.client.headers.pop("X-Api-Key")
        assert await rig.ok("GET", "/healthz") == {"status": "ok"}
        await rig.refused(503, "GET", "/readyz")
        async with node.serving():
            assert await rig.ok("GET", "/readyz") == {
                "status": "ready",
                "store": "ok",
                "node": "ok",
            }
            node.healthy = False
            await rig.refused(503, "GET", "/readyz")
        for _ in range(2):
            assert await rig.ok("GET", "/openapi.json") == json.loads(document())
        await rig.refused(400, "GET", "/openapi.json?version=3")


async def test_keys_are_made_listed_and_revoked_on_the_store(
    folder: Path, node: FakeNode, database_url: str | None
) -> None:
    """The command line's functions work beside a server that runs; a key is shown once."""
    settings = settings_for(folder, database_url)
    async with running(settings, node) as rig:
        created = await keys_admin.create_key(settings, account="team", name="ci")
        assert created.key.startswith("cw_")
        assert len(created.key) >= 3 + 32
        headers = {"X-Api-Key": created.key}
        assert (await rig.client.get("/v1/vms", headers=headers)).status_code == 200
        listed = {key.id: key for key in await keys_admin.list_keys(settings)}
        info = listed[created.id]
        assert (info.account, info.name, info.revoked_ms) == ("team", "ci", None)
        assert created.key.startswith(info.prefix)
        assert len(info.prefix) < 12
        revoked = await keys_admin.revoke_key(settings, created.id)
        assert await keys_admin.revoke_key(settings, created.id) == revoked

        async def refused() -> bool:
            return (await rig.client.get("/v1/vms", headers=headers)).status_code == 401

        await eventually(refused, "the key is refused")


async def test_a_verified_key_is_remembered_for_a_moment_only(rig: Rig) -> None:
    """A key revoked elsewhere is refused when its moment is over; one revoked here at once."""
    now_s = 100.0
    keys = Keys(rig.server.database, monotonic_s=lambda: now_s)
    elsewhere = Keys(rig.server.database)
    created = await keys.create("ci")
    assert await keys.verify(created.key) == "default"
    await elsewhere.revoke(created.id)
    assert await keys.verify(created.key) == "default"
    now_s += VERIFIED_FOR_S
    with pytest.raises(Exception, match="not valid"):
        await keys.verify(created.key)
    other = await keys.create("ci")
    assert await keys.verify(other.key) == "default"
    await keys.revoke(other.id)
    with pytest.raises(Exception, match="not valid"):
        await keys.verify(other.key)


async def test_the_key_of_the_settings_is_the_one_they_name_now(folder: Path) -> None:
    """Changing it makes the one before invalid, leaving it out makes it invalid too."""
    for key in (KEY, "cw_" + "n" * 43, None):
        settings = settings_for(folder, None, api_key=key)
        async with FakeNode(settings.node_socket).serving() as node, running(settings, node) as rig:
            for known in (KEY, "cw_" + "n" * 43):
                response = await rig.client.get("/v1/vms", headers={"X-Api-Key": known})
                assert response.status_code == (200 if known == key else 401)


async def test_the_settings_may_name_a_key_that_was_created(rig: Rig) -> None:
    """As the shell does that was told to export it; but not one that was revoked."""
    keys = rig.server.keys
    created = await keys.create("ci")
    await keys.configure(SecretStr(created.key))
    assert await keys.verify(created.key) == "default"
    await keys.configure(None)
    assert await keys.verify(created.key) == "default"
    await keys.revoke(created.id)
    with pytest.raises(Conflict, match="revoked"):
        await keys.configure(SecretStr(created.key))


async def test_what_goes_wrong_inside_is_told_to_nobody(folder: Path, node: FakeNode) -> None:
    """An error of ours is a 500 with the request's id and nothing of what it was."""
    async with running(settings_for(folder, None), node) as rig:
        vm = await rig.vm()
        await rig.server.log_store.close()
        (rig.settings.server_dir / "logs.db").unlink()
        (rig.settings.server_dir / "logs.db").mkdir()
        problem = await rig.refused(500, "GET", f"/v1/vm/{vm['id']}/logs")
        assert problem["code"] == "internal_error"
        assert "database" not in json.dumps(problem)
