"""What a request says that nobody knows is refused, and named; computed from the document, so that
a new call, field or parameter cannot be forgotten."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from cakework.server.openapi import document

from .rig import KEY, Json, Rig, as_problem, until

pytestmark = pytest.mark.anyio
DOCUMENT: Json = json.loads(document())
IDS = {
    "vmId": "0" * 14,
    "buildId": "00000000-0000-0000-0000-000000000000",
    "imageId": "0" * 26,
    "webhookId": "ep_" + "0" * 26,
    "deliveryId": "dlv_" + "0" * 26,
    "functionId": "fn_" + "0" * 26,
    "version": 1,
    "invocationId": "inv_" + "0" * 26,
    "name": "TOKEN",
    "triggerId": "trg_" + "0" * 26,
    "eventId": "evt_" + "0" * 26,
}
OF_TYPE = {
    "CronConfig": "cron",
    "EventConfig": "event",
    "WebhookConfigGiven": "webhook",
    "VerifyGiven": "webhook",
    "LifecycleConfig": "lifecycle",
}
"""What is looked at only in a body that says which of several it has."""
JSON = {"Content-Type": "application/json"}
SURPLUS = "surplusWord"
Call = tuple[str, str, Json]


@pytest.fixture
def database_url() -> None:
    """One store is enough: nothing here comes so far as to either."""


def calls() -> Iterator[Call]:
    """Yield method, address and description of every call."""
    for path, operations in DOCUMENT["paths"].items():
        for method, operation in operations.items():
            yield method.upper(), path.format(**IDS), operation


CALLS = list(calls())
WITH_BODY = [call for call in CALLS if "requestBody" in call[2]]
POSTS_WITHOUT = [call for call in CALLS if call[0] == "POST" and call not in WITH_BODY]
READS = [call for call in CALLS if call[0] in ("GET", "DELETE")]


def schema_of(operation: Json) -> Json:
    return operation["requestBody"]["content"]["application/json"]["schema"]


def objects(schema: Json, place: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Json]]:
    """Yield each object that a body may have, by its place; those with names of anybody's choice
    are none."""
    for kind in schema.get("anyOf", ()):
        yield from objects(kind, place)
    if "$ref" in schema:
        yield from objects(DOCUMENT["components"]["schemas"][schema["$ref"].split("/")[-1]], place)
    elif "properties" in schema and schema["additionalProperties"] is not True:
        yield place, schema
        for name, field in schema["properties"].items():
            yield from objects(field, (*place, name))
    elif schema.get("type") == "array":
        yield from objects(schema["items"], (*place, "0"))


def at(place: tuple[str, ...], value: object) -> Any:
    """Return a body that says nothing but ``value`` at ``place``."""
    for name in reversed(place):
        value = [value] if name == "0" else {name: value}
    return value


def parameters(operation: Json) -> list[str]:
    found = operation.get("parameters", ())
    return [each["name"] for each in found if each["in"] == "query"]


def faults_of(problem: Json) -> dict[str, str]:
    assert problem["code"] == "invalid_request"
    return {fault["field"]: fault["message"] for fault in problem["errors"]}


async def test_an_unknown_field_is_refused_at_every_depth(rig: Rig) -> None:
    """Each call names the field by its place; one that is nearly right, with the one meant."""
    places: set[str] = set()
    for method, address, operation in WITH_BODY:
        for place, schema in objects(schema_of(operation)):
            assert schema["additionalProperties"] is False, place
            places.add(".".join(place))
            meant = next(iter(schema["properties"]))
            for name, told in ((SURPLUS, "is unknown"), (f"{meant}_X", f"did you mean {meant}?")):
                body = at(place, {name: 1})
                if kind := OF_TYPE.get(schema.get("title", "")):
                    body["type"] = kind
                faults = faults_of(await rig.refused(400, method, address, json=body))
                assert told in faults[".".join((*place, name))], (address, faults)
    assert {"", "files.0", "hooks", "hooks.afterResume", "config", "config.verify"} <= places
    assert (rig.node.vm_orders, rig.node.build_orders) == ([], [])


@pytest.mark.parametrize(
    ("method", "address", "place"),
    [
        ("POST", "/v1/functions", "settings.limits"),
        ("PATCH", f"/v1/functions/{IDS['functionId']}", "settings.limits"),
        ("POST", "/v1/triggers", "limits"),
        ("PATCH", f"/v1/triggers/{IDS['triggerId']}", "limits"),
    ],
)
async def test_what_is_unknown_of_a_rule_is_named(
    rig: Rig, method: str, address: str, place: str
) -> None:
    """By its place alone, whichever type of rule it is; and so is a type that there is not."""
    types = "concurrency, throttle, rate, debounce, batch"
    for rule, field, told in (
        ({"type": "rate", SURPLUS: 1}, SURPLUS, "is unknown; there are key, type, limit, period"),
        ({"type": "batch", "maxSzie": 1}, "maxSzie", "is unknown; did you mean maxSize?"),
        ({"type": "rat"}, "type", f"should be one of {types}"),
        ({"type": ["rate"]}, "type", f"should be one of {types}"),
        ({"limit": 1}, "type", f"should be one of {types}"),
    ):
        limits: Json = {"limits": [rule]}
        body = {"settings": limits} if place.startswith("settings") else limits
        faults = faults_of(await rig.refused(400, method, address, json=body))
        assert faults[f"{place}.0.{field}"] == told, faults
        assert {each for each in faults if place in each} == {f"{place}.0.{field}"}


async def test_an_unknown_parameter_is_refused_by_every_call(rig: Rig) -> None:
    """So is one that is nearly right, and one that is there more than once."""
    for method, address, operation in CALLS:
        known = parameters(operation)
        wrong = [(f"{SURPLUS}=1", SURPLUS, "is unknown")]
        wrong += [(f"{name}_X=1", f"{name}_X", f"did you mean {name}?") for name in known]
        wrong += [(f"{name}=1&{name}=1", name, "is there more than once") for name in known]
        for query, name, told in wrong:
            faults = faults_of(await rig.refused(400, method, f"{address}?{query}"))
            assert told in faults[name], (address, faults)
        assert "400" in operation["responses"], address


async def test_what_takes_no_body_refuses_one(rig: Rig) -> None:
    """A POST names each field, and what goes into the URL instead; an empty one is no matter."""
    stop = "/v1/vm/cached/00000000000000/stop"
    for method, address, _ in POSTS_WITHOUT:
        body = {SURPLUS: 1}
        faults = faults_of(await rig.refused(400, method, address, json=body))
        assert faults == {SURPLUS: "is unknown: this call takes no body"}, address
    for text in (
        "[1]",
        '"keep"',
        "keep=memory",
        "[" * 90_000,
        "1",
        json.dumps({SURPLUS: "x" * 200_000}),
    ):
        faults = faults_of(await rig.refused(400, "POST", stop, content=text, headers=JSON))
        assert faults == {"body": "is not taken by this call"}, text
    keep = faults_of(await rig.refused(400, "POST", stop, json={"keep": "memory"}))
    assert keep["keep"].endswith("did you mean ?keep= in the URL?")
    for text in ("", "{}", " { } ", "[]", "null"):
        await rig.refused(404, "POST", stop, content=text, headers=JSON)
    for method, address, _ in READS:
        refused = await rig.refused(400, method, address, json={"status": "started"})
        assert list(faults_of(refused)) == ["body"], address
    assert await rig.ok("GET", "/v1/vms", content="{}", headers=JSON) == {"vms": []}


NEAR_MISSES = ("state=started", "imageID=x", "limit=1", "Status=started", "a[]=b")
MEANT = {
    "env": "did you mean envVars?",
    "memry": "did you mean memory?",
    "image_id": "did you mean imageId?",
    "volumeGb": "did you mean volumeGB?",
    "retries": "there are imageId, cpu, memory, port, envVars, volumeGB",
}


async def test_a_list_that_is_asked_for_in_wrong_words_is_none(rig: Rig) -> None:
    """Who stops all that such a list has does not stop what they did not mean."""
    lists = [address for _, address, operation in READS if "pagination" in parameters(operation)]
    assert {"/v1/vms", "/vms", "/v1/images", "/v1/image/builds"} <= set(lists)
    for address in (*lists, "/v1/webhooks"):
        for query in NEAR_MISSES:
            problem = await rig.refused(400, "GET", f"{address}?{query}")
            assert query.split("=")[0] in problem["detail"]


async def test_what_was_meant_is_told(rig: Rig) -> None:
    """In ``errors`` and in the sentence; where nothing is near, all that there is."""
    for name, told in MEANT.items():
        body = {"imageId": "0" * 26, name: {"A": "b"}}
        problem = await rig.refused(400, "POST", "/v1/vm/start", json=body)
        assert told in faults_of(problem)[name]
        assert told in problem["detail"]


async def test_of_many_unknown_fields_few_are_told(rig: Rig) -> None:
    """Twenty, each cut, of a hundred thousand, however they are spelt and wherever they are."""
    for name, number in (("{}", 100_000), ("{}" + "\N{SNOWMAN}" * 200, 1000), ("{}\ud800", 30)):
        fields = {name.format(index): 1 for index in range(number)}
        for place in ((), ("files", "0")):
            body = json.dumps(at(place, fields))
            answer = await rig.client.post("/v1/image/build/files", content=body, headers=JSON)
            assert answer.status_code == 400
            assert len(as_problem(answer)["errors"]) == 20
            assert len(answer.content) < 20_000
    query = "&".join(f"{index}=1" for index in range(2000))
    assert len((await rig.refused(400, "GET", f"/v1/vms?{query}"))["errors"]) == 20


async def test_a_body_that_is_not_said_to_be_json_is_told_so(rig: Rig) -> None:
    """As curl's ``-d`` sends it, or with no Content-Type."""
    body = json.dumps({"imageId": "0" * 26})
    for kind in ("", "application/x-www-form-urlencoded", "text/json"):
        headers = {"Content-Type": kind} if kind else {}
        problem = await rig.refused(400, "POST", "/v1/vm/start", content=body, headers=headers)
        assert problem["errors"] == [
            {"field": "body", "message": "needs the header Content-Type: application/json"}
        ]
    for kind in ("application/json; charset=utf-8", "Application/JSON", "application/x+json"):
        headers = {"Content-Type": kind}
        await rig.refused(404, "POST", "/v1/vm/start", content=body, headers=headers)


async def test_a_stranger_is_told_nothing_of_it(rig: Rig) -> None:
    """Without a key nothing is looked at."""
    for method, address, operation in CALLS:
        if "security" in operation:
            url = f"{address}?{SURPLUS}=1"
            headers = {"X-Api-Key": KEY + "x"}
            await rig.refused(401, method, url, json={SURPLUS: 1}, headers=headers)


async def test_headers_are_free(rig: Rig) -> None:
    """Proxies add theirs, and clients say who they are."""
    await rig.ok("GET", "/v1/vms", headers={"X-Forwarded-For": "10.0.0.1", "X-Fern-Language": "JS"})


async def test_what_the_published_client_sends_is_taken(rig: Rig) -> None:
    """Every body and query of @cakework/client 0.0.57, with each field that it can send.

    It says that a body is JSON also where there is none.
    """
    files = [{"dir": ".", "name": "a", "content": "x"}]
    build = await rig.build(files=files)
    await until(lambda: rig.node.build_orders, "the node has the order")
    await rig.node.succeed(build["buildId"])
    found = await rig.eventually(f"/v1/image/build/{build['buildId']}", status="succeeded")
    log = {
        "query": "x",
        "batch": "50",
        "order": "newest_first",
        "from": "2023-07-19T13:32:56+0000",
        "to": "2033-07-19T13:32:56+0000",
    }
    vm = {"imageId": found["imageId"], "port": 80, "cpu": 1, "memory": 256, "envVars": {"A": "b"}}
    github = {
        "dockerfile": "FROM x",
        "dockerignore": "",
        "token": "",
        "repository": "a/b",
        "branch": "main",
    }
    registry = {"imageUri": "registry.example/a:1", "password": "p"}
    started = await rig.ok("POST", "/v1/vm/start", json={**vm, "volumeGB": 1})
    cached = await rig.ok("POST", "/v1/vm/cache", json=vm)
    await rig.ok("POST", "/v1/image/build/github", json=github)
    listed = {"imageId": found["imageId"], "status": "started"}
    page = await rig.ok("GET", "/v1/vms", params=listed)
    assert [each["id"] for each in page["vms"]] == [started["id"]]
    for path in (
        f"image/build/{build['buildId']}",
        f"vm/{started['id']}",
        f"vm/cached/{cached['id']}",
    ):
        await rig.ok("GET", f"/v1/{path}/logs", params=log, headers=JSON)
    for act in (f"cached/{cached['id']}/start", f"cached/{cached['id']}/stop"):
        await rig.ok("POST", f"/v1/vm/{act}", headers=JSON)
    for act in (f"{started['id']}/stop", f"{cached['id']}/destroy"):
        await rig.ok("POST", f"/v1/vm/{act}", headers=JSON)
    rig.node.imports_at_once = True
    await rig.ok("POST", "/v1/image/import", json=registry)
