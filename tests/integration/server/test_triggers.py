"""Triggers as the API has them: made, declared again and again, changed, paused, run, removed."""

import threading
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from cakework.domain.ids import AccountId, FunctionId, TriggerId
from cakework.domain.triggers import WebhookConfig
from cakework.server.api import triggers as api
from cakework.server.automations import triggers as limits
from cakework.server.automations.declarations import NewTrigger

from .function_node import FunctionNode
from .rig import Json
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
CRON: Json = {"type": "cron", "config": {"cron": "0 9 * * 1-5", "timeZone": "Europe/Berlin"}}
EVENT: Json = {
    "type": "event",
    "config": {"types": ["order.*"]},
    "filter": {"data": {"total": [{"numeric": [">", 100]}]}},
}
GITHUB: Json = {"type": "webhook", "config": {"verify": {"scheme": "github"}}}
LIFECYCLE: Json = {"type": "lifecycle", "config": {"types": ["cakework.invocation.failed"]}}


@pytest.fixture
async def functions(folder: Path, hosting: FunctionNode) -> AsyncGenerator[Functions]:
    async with served(folder, hosting, None) as made:
        yield made


async def made(functions: Functions, function_id: str, **fields: Any) -> Json:
    body = {"functionId": function_id, **fields}
    return await functions.rig.ok("POST", "/v1/triggers", json=body)


async def empty(functions: Functions, **fields: Any) -> str:
    """Make a function that nothing is deployed to."""
    body = {"name": "f", "runtime": "python3.11", **fields}
    return (await functions.rig.ok("POST", "/v1/functions", json=body))["id"]


@pytest.mark.parametrize("body", [CRON, EVENT, GITHUB, LIFECYCLE], ids=lambda body: body["type"])
async def test_what_is_made_is_found_as_it_was_said(
    folder: Path, hosting: FunctionNode, database_url: str | None, body: Json
) -> None:
    """Alone and in the list, with defaults, and without a secret."""
    async with served(folder, hosting, database_url) as functions:
        function_id = await empty(functions)
        told = await made(functions, function_id, **body, name="mine", pauseAfter=3)
        assert (told.pop("secret", None) is not None) is (body == GITHUB)
        assert told["config"].items() >= body["config"].items() or body == GITHUB
        assert told.get("filter") == body.get("filter")
        assert (told["state"], told["enabled"], told["managedBy"]) == ("active", True, "api")
        assert told["consecutiveFailures"] == 0
        assert await functions.rig.ok("GET", f"/v1/triggers/{told['id']}") == told
        query = {"functionId": function_id, "type": body["type"]}
        listed = await functions.rig.ok("GET", "/v1/triggers", params=query)
        assert listed == {"triggers": [told]}
        assert (len(told.get("next", [])) == 5) is (body == CRON)
        assert ("/in/" in told.get("url", "")) is (body == GITHUB)
        await functions.rig.ok("DELETE", f"/v1/triggers/{told['id']}")
        await functions.rig.refused(404, "GET", f"/v1/triggers/{told['id']}")


async def test_what_is_declared_again_is_the_same_trigger(functions: Functions) -> None:
    """By its externalId; with other words it is refused, and told which it is."""
    function_id = await empty(functions)
    first = await made(functions, function_id, **CRON, externalId="digest:cust_1")
    assert await made(functions, function_id, **CRON, externalId="digest:cust_1") == first
    other = {"functionId": function_id, **EVENT, "externalId": "digest:cust_1"}
    problem = await functions.rig.refused(409, "POST", "/v1/triggers", json=other)
    assert first["id"] in problem["detail"]
    elsewhere = await empty(functions, name="g")
    assert (await made(functions, elsewhere, **CRON, externalId="digest:cust_1"))["id"] != first[
        "id"
    ]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({**CRON, "config": {"cron": "61 * * * *"}}, "config"),
        ({**CRON, "config": {"cron": "0 0 30 2 *"}}, "config"),
        ({**CRON, "config": {"cron": "* * * * *", "timeZone": "../etc/passwd"}}, "config"),
        ({**CRON, "config": {"every": 5}}, "config.every"),
        ({**CRON, "config": {"every": 60, "cron": "* * * * *"}}, "config"),
        ({**CRON, "config": {"evry": 60}}, "config.evry"),
        ({**CRON, "config": {"every": 60}, "filter": {"type": ["x"]}}, "filter"),
        ({**EVENT, "config": {"types": []}}, "config.types"),
        ({**EVENT, "filter": {"data": {"total": [{"nummeric": [">", 1]}]}}}, "filter"),
        ({**EVENT, "config": {"types": ["a"], "source": "x" * 2000}}, "config.source"),
        ({**GITHUB, "config": {"verify": {"scheme": "gitlab"}}}, "config.verify"),
        ({**GITHUB, "config": {"verify": {"scheme": "stripe"}}}, "config.verify.secret"),
        ({**LIFECYCLE, "config": {"types": ["order.paid"]}}, "config.types"),
        ({**LIFECYCLE, "config": {"types": ["cakework.invocation.fail"]}}, "config.types"),
        ({**EVENT, "config": {"types": ["cakework.invocation.failed"]}}, "config.types"),
        ({"type": "http", "config": {}}, "type"),
        ({**CRON, "onFailure": {"functionId": "fn_" + "0" * 26}}, "onFailure"),
        ({**CRON, "pauseAfter": 0}, "pauseAfter"),
        ({**CRON, "userId": "no spaces"}, "userId"),
        ({**CRON, "config": {"every": 60, "data": "x" * 20_000}}, "config"),
    ],
)
async def test_what_cannot_be_is_refused_and_named(
    functions: Functions, body: Json, field: str
) -> None:
    """With the field at fault, and nothing is made."""
    function_id = await empty(functions)
    asked = {"functionId": function_id, **body}
    problem = await functions.rig.refused(400, "POST", "/v1/triggers", json=asked)
    assert len(problem["errors"]) == 1, problem
    assert problem["errors"][0]["field"].startswith(field), problem
    assert await functions.rig.ok("GET", "/v1/triggers") == {"triggers": []}


async def test_a_trigger_is_paused_changed_and_goes_on(functions: Functions) -> None:
    """What is changed is another schedule at once; null takes a field away."""
    function_id = await empty(functions)
    trigger = await made(functions, function_id, **CRON, pauseAfter=3)
    path = f"/v1/triggers/{trigger['id']}"
    paused = await functions.rig.ok("PATCH", path, json={"enabled": False})
    assert (paused["state"], paused["enabled"]) == ("paused", False)
    change = {"config": {"cron": None, "timeZone": None, "every": 2_678_400}, "pauseAfter": None}
    changed = await functions.rig.ok("PATCH", path, json={**change, "enabled": True})
    assert changed["config"]["every"] == 2_678_400
    assert changed["next"] != trigger["next"]
    assert "pauseAfter" not in changed
    assert changed["state"] == "active"
    wrong = {"config": {"every": 1}}
    problem = await functions.rig.refused(400, "PATCH", path, json=wrong)
    assert problem["errors"][0]["field"] == "config.every"
    unknown = {"config": {"evry": 1}}
    problem = await functions.rig.refused(400, "PATCH", path, json=unknown)
    assert "every" in problem["errors"][0]["message"]
    assert await functions.rig.ok("GET", path) == changed


async def test_what_comes_once_is_done(functions: Functions) -> None:
    """A time that has gone by makes a trigger that is paused from the first."""
    function_id = await empty(functions)
    at = {"type": "cron", "config": {"at": "2020-01-01T00:00:00Z"}}
    trigger = await made(functions, function_id, **at)
    assert (trigger["state"], trigger["pausedReason"], trigger["next"]) == ("paused", "done", [])


async def test_a_trigger_is_run_by_hand(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """Its handler gets an event that says so, and the trigger's own data unless others are given;
    the trigger shows what it made."""
    code = """\
def handler(event, context):
    return [event["type"], event["source"], event.get("data"), event["test"]]
"""
    async with served(folder, hosting, database_url) as functions:
        function_id = await functions.made(code)
        config = {"every": 86_400, "data": {"report": "daily"}}
        trigger = await made(functions, function_id, type="cron", config=config)
        path = f"/v1/triggers/{trigger['id']}"
        for body, data in (({}, {"report": "daily"}), ({"data": 7}, 7)):
            response = await functions.rig.client.post(f"{path}/run", json=body)
            assert response.status_code == 202, response.text
            ended = await functions.settled(response.json()["id"])
            assert ended["result"] == [
                "cakework.trigger.cron",
                f"/triggers/{trigger['id']}",
                data,
                True,
            ]
            assert (ended["trigger"], ended["triggerId"]) == ("cron", trigger["id"])
        shown = await functions.rig.ok("GET", path)
        assert (shown["lastResult"], shown["lastFiredAt"]) == ("succeeded", ended["createdAt"])
        query = {"triggerId": trigger["id"]}
        listed = await functions.rig.ok("GET", "/v1/invocations", params=query)
        assert len(listed["invocations"]) == 2


async def test_triggers_go_with_their_function(functions: Functions) -> None:
    """And with nothing else."""
    function_id, other = await empty(functions), await empty(functions, name="g")
    await made(functions, function_id, **CRON)
    kept = await made(functions, other, **EVENT)
    await functions.rig.ok("DELETE", f"/v1/functions/{function_id}")
    assert await functions.rig.ok("GET", "/v1/triggers") == {"triggers": [kept]}


async def test_one_account_does_not_reach_anothers(functions: Functions) -> None:
    """Neither their triggers nor their functions."""
    function_id = await empty(functions)
    trigger = await made(functions, function_id, **GITHUB)
    async with await functions.rig.other_account() as stranger:
        path = f"/v1/triggers/{trigger['id']}"
        for method, where, body in (
            ("GET", path, None),
            ("PATCH", path, {"enabled": False}),
            ("DELETE", path, None),
            ("POST", f"{path}/run", {}),
            ("POST", f"{path}/rotate", {}),
            ("POST", "/v1/triggers", {"functionId": function_id, **CRON}),
        ):
            answer = await stranger.request(method, where, json=body)
            assert answer.status_code == 404, (method, where)
        assert (await stranger.get("/v1/triggers")).json() == {"triggers": []}
    assert await functions.rig.ok("GET", f"/v1/triggers/{trigger['id']}") == {
        name: value for name, value in trigger.items() if name != "secret"
    }


async def test_a_webhook_gets_another_secret_and_another_url(functions: Functions) -> None:
    """The secret is shown once, where it was made here; the provider's own is never shown."""
    function_id = await empty(functions)
    trigger = await made(functions, function_id, **GITHUB)
    path = f"/v1/triggers/{trigger['id']}"
    rotated = await functions.rig.ok("POST", f"{path}/rotate")
    assert rotated["secret"] not in (None, trigger["secret"])
    assert rotated["url"] == trigger["url"]
    moved = await functions.rig.ok("POST", f"{path}/rotate", json={"secret": False, "url": True})
    assert "secret" not in moved
    assert moved["url"] != trigger["url"]
    given = {"secret": "a secret of the provider"}
    assert "secret" not in await functions.rig.ok("POST", f"{path}/rotate", json=given)
    verify = {"scheme": "stripe", "secret": "whsec_" + "a" * 32}
    body = {"type": "webhook", "config": {"verify": verify}}
    stripe = await made(functions, function_id, **body)
    assert "secret" not in stripe
    assert "secret" not in stripe["config"]["verify"]
    problem = await functions.rig.refused(400, "POST", f"/v1/triggers/{stripe['id']}/rotate")
    assert problem["errors"][0]["field"] == "secret"
    short = {"json": {"secret": "whsec_…"}}
    problem = await functions.rig.refused(
        400, "POST", f"/v1/triggers/{stripe['id']}/rotate", **short
    )
    assert problem["errors"] == [{"field": "secret", "message": "must have 8 to 1024 characters"}]


async def test_an_end_users_function_has_its_triggers_for_that_user(functions: Functions) -> None:
    """Whoever says another is refused; whoever says nothing gets that."""
    function_id = await empty(functions, userId="ada")
    assert (await made(functions, function_id, **EVENT))["userId"] == "ada"
    asked = {"functionId": function_id, **EVENT, "userId": "bob"}
    problem = await functions.rig.refused(400, "POST", "/v1/triggers", json=asked)
    assert problem["errors"][0]["field"] == "userId"


async def test_triggers_are_bounded(functions: Functions, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a function, and of an account."""
    monkeypatch.setattr(limits, "PER_FUNCTION", 2)
    monkeypatch.setattr(limits, "PER_ACCOUNT", 3)
    first, second = await empty(functions), await empty(functions, name="g")
    for function_id in (first, first, second):
        await made(functions, function_id, **EVENT)
    for function_id, whose in ((first, "account"), (second, "account")):
        asked = {"functionId": function_id, **EVENT}
        problem = await functions.rig.refused(429, "POST", "/v1/triggers", json=asked)
        assert whose in problem["detail"]


async def test_lifecycle_triggers_are_few(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them is looked at within whatever it may be told of."""
    monkeypatch.setattr(limits, "LIFECYCLE_PER_ACCOUNT", 2)
    function_id = await empty(functions)
    for _ in range(2):
        await made(functions, function_id, **LIFECYCLE)
    asked = {"functionId": function_id, **LIFECYCLE}
    problem = await functions.rig.refused(429, "POST", "/v1/triggers", json=asked)
    assert "2 lifecycle triggers" in problem["detail"]
    await made(functions, function_id, **EVENT)


async def test_a_retried_creation_makes_one(functions: Functions) -> None:
    """With an Idempotency-Key; the secret is told again."""
    function_id = await empty(functions)
    body = {"functionId": function_id, **GITHUB}
    headers = {"Idempotency-Key": "once"}
    one = await functions.rig.ok("POST", "/v1/triggers", json=body, headers=headers)
    two = await functions.rig.ok("POST", "/v1/triggers", json=body, headers=headers)
    assert one == two
    assert len((await functions.rig.ok("GET", "/v1/triggers"))["triggers"]) == 1


async def test_a_creation_carried_on_tells_no_later_secret(functions: Functions) -> None:
    """By a server whose first answer is lost: the secret that was made then, or none."""
    function_id = FunctionId(await empty(functions))
    triggers, account = functions.rig.server.automations.triggers, AccountId("default")
    new = NewTrigger(function_id, WebhookConfig.model_validate(GITHUB["config"]))
    one = await triggers.create(account, new, "once")
    two = await triggers.create(account, new, "once")
    assert one.secret is not None
    assert (two.row.id, two.secret) == (one.row.id, one.secret)
    await triggers.rotate(account, TriggerId(one.row.id), url=False, secret=True)
    three = await triggers.create(account, new, "once")
    assert (three.row.id, three.secret) == (one.row.id, None)


async def test_a_schedule_ends_with_the_calendar(functions: Functions) -> None:
    """What would come after the year 9999 does not come; it is shown, alone and in the list."""
    function_id = await empty(functions)
    for config in (
        {"at": "9999-12-31T23:59:59Z", "spread": 86_400},
        {"every": 60, "startAt": "9999-12-31T23:59:59Z"},
        {"every": 60, "startAt": "9999-12-31T23:59:59-23:59"},
    ):
        told = await made(functions, function_id, type="cron", config=config)
        shown = (told["state"], told.get("pausedReason"), told["next"])
        assert shown in (("paused", "done", []), ("active", None, ["9999-12-31T23:59:59.000Z"]))
    assert len((await functions.rig.ok("GET", "/v1/triggers"))["triggers"]) == 3
    asked = {"every": 60, "from": "9999-12-31T23:59:59Z"}
    preview = await functions.rig.ok("POST", "/v1/schedules/preview", json=asked)
    assert preview["times"] == []


async def test_a_page_is_put_together_beside_the_loop(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a hundred triggers are told takes long to be read and written; others go on."""
    function_id = await empty(functions)
    told = [await made(functions, function_id, **each) for each in (CRON, EVENT, LIFECYCLE)]
    threads: list[bool] = []
    answer = api.trigger_answer

    def answering(*given: Any) -> api.Trigger:
        threads.append(threading.current_thread() is threading.main_thread())
        return answer(*given)

    monkeypatch.setattr(api, "trigger_answer", answering)
    page = await functions.rig.ok("GET", "/v1/triggers")
    assert page == {"triggers": told[::-1]}
    assert threads == [False] * 3


async def test_names_that_no_store_can_hold_find_nothing(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    async with served(folder, hosting, database_url) as functions:
        for name in ("externalId", "functionId", "userId"):
            found = await functions.rig.ok("GET", f"/v1/triggers?{name}=%00")
            assert found == {"triggers": []}
        found = await functions.rig.ok("GET", "/v1/invocations?functionId=%00")
        assert found == {"invocations": []}
