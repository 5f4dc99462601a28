"""Secrets of functions: who sees which, when, and what of them is seen anywhere else."""

import asyncio
import base64
import json
from collections.abc import AsyncGenerator, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select, update

from cakework.domain.errors import QuotaExceeded
from cakework.domain.ids import AccountId, new_vm_id
from cakework.domain.vms import VmState
from cakework.server.clock import now_ms
from cakework.server.functions import secrets
from cakework.server.functions.masks import AFTER_MS, RECENTLY_MS, Masks
from cakework.server.functions.secrets import VALUE_BYTES_MAX
from cakework.server.logs.lines import LineQuery, vm_source
from cakework.server.store.function_models import InstanceRow, MaskRow, SecretRow
from cakework.server.store.models import VmRow

from .function_node import FunctionNode, source
from .rig import Json, eventually, running, settings_for, until
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio

VALUE, OTHER = "sk_live_4242-secret", "sk_live_1717-another"
SHOW = """\
import os
at_import = os.environ.get("KEY")
def handler(event, context):
    return [context.secrets.get("KEY"), os.environ.get("KEY"), at_import, os.getpid()]
"""
FAIL = """\
import base64
def handler(event, context):
    key = context.secrets["KEY"]
    raise ValueError(f"cannot log in with {key} or {base64.b64encode(key.encode()).decode()}")
"""
WAIT = """\
import time
from pathlib import Path
begun, gate = Path({begun!r}), Path({gate!r})
def handler(event, context):
    if event["data"] == "wait":
        begun.touch()
        while not gate.exists():
            time.sleep(0.01)
    return context.secrets["KEY"]
"""
Scope = dict[str, str]
on_one_store = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Of what no statement of the store's is new in."""


@pytest.fixture
async def hosting(folder: Path, tmp_path: Path, anyio_backend: str) -> AsyncGenerator[FunctionNode]:
    vms = tmp_path / "vms"
    vms.mkdir()
    async with FunctionNode(settings_for(folder, None), vms).hosting() as node:
        yield node


@pytest.fixture
async def functions(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> AsyncGenerator[Functions]:
    async with served(folder, hosting, database_url) as made:
        yield made


async def put(functions: Functions, value: str, name: str = "KEY", **scope: Any) -> Json:
    shared = scope.pop("shared", None)
    body = {"value": value} if shared is None else {"value": value, "shared": shared}
    return await functions.rig.ok("PUT", f"/v1/secrets/{name}", params=scope, json=body)


async def put_elsewhere(functions: Functions, value: str) -> None:
    """Put a secret as another server does, of which this one is told nothing."""
    server = functions.rig.server
    masks = Masks(server.database, server.sealer, now_ms)
    adapter = server.functions.adapter
    another = secrets.Secrets(server.database, server.sealer, adapter, masks, 10, now_ms)
    await another.put(AccountId("default"), secrets.Scope(), "KEY", value, shared=None)


async def seen(functions: Functions, function_id: str, **fields: Any) -> str | None:
    """Return what a function that shows its secret was given."""
    return (await succeeded(functions, function_id, **fields))["result"][0]


async def succeeded(functions: Functions, function_id: str, **fields: Any) -> Json:
    ended = await functions.invoke(function_id, **fields)
    assert ended["state"] == "succeeded", ended
    return ended


@pytest.mark.contract("putSecret", "listSecrets", "deleteSecret")
async def test_a_secret_is_put_and_never_shown(functions: Functions) -> None:
    rig = functions.rig
    made = await put(functions, VALUE)
    assert made.items() >= {"name": "KEY", "shared": False}.items()
    assert made.keys() == {"name", "shared", "fingerprint", "updatedAt"}
    again = await put(functions, VALUE)
    assert again["fingerprint"] == made["fingerprint"]
    changed = await put(functions, OTHER, shared=True)
    assert changed["fingerprint"] != made["fingerprint"]
    # What is not said of it stays.
    assert (await put(functions, OTHER))["shared"] is True
    of_user = await put(functions, OTHER, userId="ada")
    assert of_user["userId"] == "ada"
    assert of_user["fingerprint"] != changed["fingerprint"]
    listed = await rig.client.get("/v1/secrets")
    assert [(each["name"], each.get("userId")) for each in listed.json()["secrets"]] == [
        ("KEY", None),
        ("KEY", "ada"),
    ]
    assert "sk_live" not in listed.text
    theirs = await rig.ok("GET", "/v1/secrets", params={"userId": "ada"})
    assert theirs["secrets"] == [of_user]
    assert await rig.ok("DELETE", "/v1/secrets/KEY") == {}
    await rig.refused(404, "DELETE", "/v1/secrets/KEY")
    assert (await rig.ok("GET", "/v1/secrets"))["secrets"] == [of_user]


WRONG: list[tuple[str, Json, Scope]] = [
    ("key", {"value": VALUE}, {}),
    ("1KEY", {"value": VALUE}, {}),
    ("CAKEWORK_KEY", {"value": VALUE}, {}),
    ("K" * 129, {"value": VALUE}, {}),
    ("KEY", {}, {}),
    ("KEY", {"value": ""}, {}),
    ("KEY", {"value": [VALUE]}, {}),
    ("KEY", {"value": VALUE + "\0"}, {}),
    ("KEY", {"value": VALUE + "\ud800"}, {}),
    ("KEY", {"value": VALUE + "ä" * 16_384}, {}),
    ("KEY", {"value": VALUE, "shared": True}, {"userId": "ada"}),
    ("KEY", {"value": VALUE, "share": True}, {}),
    ("KEY", {"value": VALUE}, {"userId": "a b"}),
    ("KEY", {"value": VALUE}, {"functionId": "fn_1"}),
    ("KEY", {"value": VALUE}, {"user": "ada"}),
]


@on_one_store
async def test_what_is_no_secret_is_refused(functions: Functions) -> None:
    """And told of without its value; a body is bounded and read as those of other calls are."""
    rig = functions.rig
    headers = {"content-type": "application/json"}
    for name, body, params in WRONG:
        path, content = f"/v1/secrets/{name}", json.dumps(body)
        response = await rig.client.put(path, params=params, content=content, headers=headers)
        assert response.status_code == 400, (name, body)
        assert VALUE not in response.text
    path, large = "/v1/secrets/KEY", json.dumps({"value": "x" * (3 << 20)})
    await rig.refused(413, "PUT", path, content=large, headers=headers)
    await rig.refused(400, "PUT", path, content='{"value": "x"}')
    await rig.refused(400, "GET", "/v1/secrets", params={"pagination": "WyJhIiwgMV0"})
    await rig.refused(400, "DELETE", path, params={"name": "KEY"})
    assert (await rig.ok("GET", "/v1/secrets"))["secrets"] == []


async def test_there_are_no_more_than_may_be(
    folder: Path, hosting: FunctionNode, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(folder, database_url, max_secrets_per_account=4)
    monkeypatch.setattr(secrets, "PER_SCOPE", 2)
    monkeypatch.setattr(secrets, "SIZE_MAX", 100)
    monkeypatch.setattr(secrets, "PAGE", 2)
    async with running(settings, hosting) as rig:
        functions = Functions(rig, hosting)
        for name in ("A", "B"):
            await put(functions, "x" * 20, name)
        body = {"value": "x" * 20}
        assert "scope" in (await rig.refused(429, "PUT", "/v1/secrets/C", json=body))["detail"]
        for name in ("A", "B"):
            await put(functions, "x" * 20, name, userId="ada")
        params = {"userId": "bob"}
        told = await rig.refused(429, "PUT", "/v1/secrets/A", json=body, params=params)
        assert "4 secrets" in told["detail"]
        # One that is there may be changed, but for what all may take.
        await put(functions, "x" * 40, "A")
        told = await rig.refused(429, "PUT", "/v1/secrets/B", json={"value": "x" * 21})
        assert "MiB" in told["detail"]
        first = await rig.ok("GET", "/v1/secrets")
        token = {"pagination": first["pagination"]}
        second = await rig.ok("GET", "/v1/secrets", params=token)
        both = first["secrets"] + second["secrets"]
        assert [(each.get("userId"), each["name"]) for each in both] == [
            (None, "A"),
            (None, "B"),
            ("ada", "A"),
            ("ada", "B"),
        ]
        assert "pagination" not in second


@on_one_store
async def test_the_store_has_no_value_and_no_way_to_guess_one(functions: Functions) -> None:
    """The fingerprint of a value that is easily guessed is of the server's key, too."""
    await put(functions, "4711")
    made = await put(functions, "4711", userId="ada")
    async with functions.rig.server.database.reading() as session:
        rows = list(await session.scalars(select(SecretRow)))
    assert all(b"4711" not in row.sealed for row in rows)
    assert rows[0].fingerprint != rows[1].fingerprint
    key = (functions.rig.settings.server_dir / "secret.key").read_bytes()
    assert len(key) == 32
    sealer = functions.rig.server.sealer
    place = json.dumps(["secret", "default", "ada", "", "KEY"])
    assert sealer.unseal(rows[1].sealed, place) == b"4711"
    with pytest.raises(Exception, match="does not open"):
        sealer.unseal(rows[1].sealed, place.replace("ada", "bob"))
    assert made["fingerprint"] == sealer.mark(b"4711", f"fingerprint:{place}")[:8].hex()


@on_one_store
async def test_another_account_s_secrets_are_not_there(functions: Functions) -> None:
    function_id = await functions.made(SHOW, settings={"secrets": ["KEY"]})
    await put(functions, VALUE)
    await put(functions, VALUE, functionId=function_id)
    async with await functions.rig.other_account() as other:
        assert (await other.get("/v1/secrets")).json()["secrets"] == []
        for params in ({}, {"functionId": function_id}):
            assert (await other.delete("/v1/secrets/KEY", params=params)).status_code == 404
        body, params = {"value": "theirs"}, {"functionId": function_id}
        path = "/v1/secrets/KEY"
        assert (await other.put(path, params=params, json=body)).status_code == 404
        assert (await other.get("/v1/secrets", params=params)).status_code == 404
        assert (await other.put(path, json=body)).status_code == 200
    assert await seen(functions, function_id) == VALUE


async def test_the_narrower_wins(functions: Functions) -> None:
    """A function's own, an end user's, the account's, in this order."""
    function_id = await functions.made(SHOW, settings={"secrets": ["KEY"]})
    await put(functions, "of the account")
    hers = await put(functions, "of ada", userId="ada")
    assert await seen(functions, function_id) == "of the account"
    first, second = (await functions.rig.ok("GET", "/v1/secrets"))["secrets"]
    assert first["lastUsedAt"] >= first["updatedAt"]
    assert second == hers
    assert "lastUsedAt" not in hers
    assert await seen(functions, function_id, userId="ada") == "of ada"
    assert await seen(functions, function_id, userId="bob") == "of the account"
    assert await seen(functions, function_id) == "of the account"
    await put(functions, "of the function", functionId=function_id)
    for user in ({}, {"userId": "ada"}):
        assert await seen(functions, function_id, **user) == "of the function"
    await functions.rig.ok("DELETE", f"/v1/functions/{function_id}")
    listed = (await functions.rig.ok("GET", "/v1/secrets"))["secrets"]
    assert [each.get("functionId") for each in listed] == [None, None]


async def test_an_end_user_s_function_sees_what_is_theirs_or_shared(functions: Functions) -> None:
    settings = {"secrets": ["KEY"]}
    function_id = await functions.made(SHOW, userId="ada", settings=settings)
    await put(functions, "of the account")
    await put(functions, "of bob", userId="bob")
    for user in ({}, {"userId": "ada"}, {"userId": "bob"}):
        failed = await functions.invoke(function_id, **user)
        assert (failed["state"], failed["reason"]) == ("failed", "secrets_unavailable")
    await put(functions, "of the account", shared=True)
    assert await seen(functions, function_id) == "of the account"
    await put(functions, "of ada", userId="ada")
    assert await seen(functions, function_id) == "of ada"
    params = {"functionId": function_id, "userId": "bob"}
    await functions.rig.refused(404, "PUT", "/v1/secrets/KEY", params=params, json={"value": "x"})
    await put(functions, "of hers", functionId=function_id, userId="ada")
    assert await seen(functions, function_id) == "of hers"


@on_one_store
async def test_without_a_secret_nothing_begins_and_it_is_said(functions: Functions) -> None:
    settings = {"secrets": ["KEY", "OTHER"], "minInstances": 1}
    function_id = await functions.made(SHOW, settings=settings)
    await put(functions, VALUE, "OTHER")
    failed = await functions.invoke(function_id)
    assert (failed["reason"], failed["attempts"]) == ("secrets_unavailable", [])
    assert "no secret KEY for this function" in failed["error"]["message"]
    assert await functions.instances() == []
    await put(functions, "x" * VALUE_BYTES_MAX)
    await succeeded(functions, function_id)
    replayed = await functions.rig.client.post(f"/v1/invocations/{failed['id']}/replay")
    assert (await functions.settled(replayed.json()["id"]))["state"] == "succeeded"
    many = {f"KEY{n}": "x" * VALUE_BYTES_MAX for n in range(8)}
    for name, value in many.items():
        await put(functions, value, name, functionId=function_id)
    path = f"/v1/functions/{function_id}"
    await functions.rig.ok("PATCH", path, json={"settings": {"secrets": [*many, "KEY"]}})
    failed = await functions.invoke(function_id)
    assert failed["reason"] == "secrets_unavailable"
    assert "262144 are allowed" in failed["error"]["message"]


@on_one_store
async def test_code_at_import_sees_none_unless_it_says_so(functions: Functions) -> None:
    await put(functions, VALUE)
    function_id = await functions.made(SHOW, settings={"secrets": ["KEY"]})
    assert (await functions.invoke(function_id))["result"][:3] == [VALUE, VALUE, None]
    path = f"/v1/functions/{function_id}"
    assert (await functions.rig.ok("GET", f"{path}/versions/1"))["snapshot"] == {"state": "made"}
    at_init = {"settings": {"secretsAtInit": True}}
    await functions.rig.ok("PATCH", path, json=at_init)
    assert (await functions.invoke(function_id))["result"][:3] == [VALUE] * 3
    body = {"source": source(SHOW + "# two\n")}
    await functions.rig.ok("POST", f"{path}/versions", json=body)
    await functions.ended(function_id, 2, "ready")
    await functions.rig.eventually(f"{path}/versions/2", snapshot={"state": "none"})
    assert (await functions.invoke(function_id))["result"][:3] == [VALUE] * 3
    # What its import raises is shown without them.
    body = {"source": source("import os\nraise ValueError(os.environ['KEY'])\n")}
    await functions.rig.ok("POST", f"{path}/versions", json=body)
    version = await functions.ended(function_id, 3, "failed")
    assert "ValueError: ***" in version["error"]
    await functions.rig.ok("DELETE", "/v1/secrets/KEY")
    await functions.rig.ok("POST", f"{path}/versions", json={"source": source(SHOW + "# 4\n")})
    version = await functions.ended(function_id, 4, "failed")
    assert "no secret KEY" in version["error"]
    refused = {"settings": {"snapshotSecrets": True}}
    await functions.rig.refused(400, "PATCH", path, json=refused)
    both = {"settings": {"envVars": {"KEY": "x"}}}
    await functions.rig.refused(400, "PATCH", path, json=both)


async def test_a_change_replaces_what_is_idle_at_once_and_what_is_busy_after_its_attempt(
    functions: Functions, tmp_path: Path
) -> None:
    """By what the store says alone: no other process need be told."""
    begun, gate = tmp_path / "begun", tmp_path / "gate"
    await put(functions, VALUE)
    settings = {"secrets": ["KEY"], "maxInstances": 2}
    code = WAIT.format(begun=str(begun), gate=str(gate))
    function_id = await functions.made(code, settings=settings)
    busy = await functions.queue(function_id, "wait")
    await until(begun.exists, "the handler has begun")
    assert (await succeeded(functions, function_id))["result"] == VALUE
    old = {row.vm_id: row.state for row in await functions.instances()}
    assert sorted(old.values()) == ["busy", "idle"]
    await put_elsewhere(functions, OTHER)
    assert (await succeeded(functions, function_id))["result"] == OTHER

    async def left() -> list[InstanceRow] | None:
        rows = [row for row in await functions.instances() if row.vm_id in old]
        return rows if len(rows) == 1 else None

    (working,) = await eventually(left, "the idle one is gone")
    assert old[working.vm_id] == working.state == "busy"
    gate.touch()
    # Begun with the old one, it has that to its end.
    assert (await functions.settled(busy["id"]))["result"] == VALUE

    async def gone() -> bool:
        return all(row.vm_id not in old for row in await functions.instances())

    await eventually(gone, "the busy one is gone, too")
    kept = [row.vm_id for row in await functions.instances()]
    await put(functions, OTHER)
    await put(functions, "for somebody else", userId="ada")
    await put(functions, "not named", "ANOTHER")
    assert (await succeeded(functions, function_id))["result"] == OTHER
    assert [row.vm_id for row in await functions.instances()] == kept
    await functions.rig.ok("DELETE", "/v1/secrets/KEY")
    assert (await functions.invoke(function_id))["reason"] == "secrets_unavailable"


async def test_secrets_that_change_while_an_instance_starts_are_not_taken_for_the_old(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes there and back: an instance has what it says it was made with, or goes."""
    await put(functions, VALUE)
    function_id = await functions.made(SHOW, settings={"secrets": ["KEY"]})
    parts = functions.rig.server.functions
    give, adapter = parts.secrets.give, parts.adapter.give_secrets
    given: list[str] = []
    flips = 1

    async def flipped(*of: Any) -> None:
        nonlocal flips
        flip, flips = flips > 0, 0
        if flip:
            await put(functions, OTHER)
        try:
            await give(*of)
        finally:
            if flip:
                await put(functions, VALUE)

    async def noted(vm_id: Any, values: Any) -> None:
        given.append(values["KEY"])
        await adapter(vm_id, values)

    monkeypatch.setattr(parts.secrets, "give", flipped)
    monkeypatch.setattr(parts.adapter, "give_secrets", noted)
    assert await seen(functions, function_id) == VALUE
    assert given == [VALUE]


async def printed(functions: Functions, vm_id: str, *texts: str) -> list[str]:
    """Return what is stored of what a VM prints now."""
    node = functions.node
    lines = [node.line(vm_id, text) for text in texts]
    await node.push(*lines)
    query = LineQuery(vm_source(vm_id), after=lines[0].seq - 1)

    async def look() -> list[str] | None:
        page = await functions.rig.server.log_store.page(query, "default")
        return [line.text for line in page.lines] if len(page.lines) == len(texts) else None

    return await eventually(look, f"{len(texts)} lines of {vm_id} are stored")


async def test_what_an_instance_prints_is_masked_before_it_is_stored(
    folder: Path, hosting: FunctionNode, database_url: str | None
) -> None:
    """Also when its secret is another by then, and by a server that did not give it."""
    piece = "x" * (16 * 1024 - 8)
    async with served(folder, hosting, database_url) as functions:
        await put(functions, VALUE)
        function_id = await functions.made(SHOW, settings={"secrets": ["KEY"]})
        assert await seen(functions, function_id) == VALUE
        vm_id = (await functions.instances())[0].vm_id
        plain = (await functions.rig.vm())["id"]
        assert await printed(functions, vm_id, f"a {VALUE} b", OTHER) == ["a *** b", OTHER]
        assert await printed(functions, vm_id, piece + VALUE[:8]) == [piece + "***"]
        assert await printed(functions, vm_id, f"{VALUE[8:]} b", VALUE[8:]) == ["*** b", VALUE[8:]]
        assert await printed(functions, plain, VALUE) == [VALUE]
        assert (
            await printed(functions, vm_id, *["x" * 9_999, VALUE] * 2) == ["x" * 9_999, "***"] * 2
        )
        await put(functions, OTHER)

        async def gone() -> bool:
            return not await functions.instances()

        await eventually(gone, "the instance is gone")
    async with served(folder, hosting, database_url) as functions:
        assert await printed(functions, vm_id, f"last: {VALUE}", OTHER) == ["last: ***", OTHER]
    (folder / "server" / "secret.key").write_bytes(bytes(32))
    async with served(folder, hosting, database_url) as functions:
        assert await printed(functions, vm_id, "is it?", VALUE) == ["***", "***"]
        assert await printed(functions, plain, VALUE) == [VALUE]


async def test_masks_go_with_the_last_line_of_their_vm(functions: Functions) -> None:
    server = functions.rig.server
    await put(functions, VALUE)
    function_id = await functions.made(SHOW, settings={"secrets": ["KEY"]})
    await seen(functions, function_id)
    vm_id = (await functions.instances())[0].vm_id
    later = Masks(server.database, server.sealer, lambda: now_ms() + AFTER_MS + 1)

    async def kept() -> list[str]:
        async with server.database.reading() as session:
            return list(await session.scalars(select(MaskRow.vm_id)))

    await later.tidy()
    assert await kept() == [vm_id]
    await functions.rig.ok("DELETE", f"/v1/functions/{function_id}")

    async def ended() -> bool:
        async with server.database.reading() as session:
            row = await session.get(VmRow, vm_id)
        return row is not None and row.state == VmState.DESTROYED

    await eventually(ended, "the instance is gone")
    async with server.database.writing() as session:
        await session.execute(update(VmRow).where(VmRow.id == vm_id).values(log_complete=False))
    await later.tidy()
    assert await kept() == [vm_id]
    async with server.database.writing() as session:
        await session.execute(update(VmRow).where(VmRow.id == vm_id).values(log_complete=True))
    await Masks(server.database, server.sealer, now_ms).tidy()
    assert await kept() == [vm_id]
    await later.tidy()
    assert await kept() == []


async def test_an_account_s_masks_are_bounded(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whose VMs are given no more while theirs are there; another account's are."""
    monkeypatch.setattr("cakework.server.functions.masks.KEPT_BYTES_MAX", 10_000)
    server, value = functions.rig.server, "x" * 4_000
    await put(functions, value)
    made = [
        await functions.made(SHOW, name=name, settings={"secrets": ["KEY"]}) for name in ("a", "b")
    ]
    for each in made:
        assert await seen(functions, each) == value

    async def keep(account: str, clock: Callable[[], int] = now_ms) -> None:
        masks, vm_id = Masks(server.database, server.sealer, clock), new_vm_id()
        async with server.database.writing() as session:
            await masks.keep(session, AccountId(account), vm_id, [value])

    await keep("another")
    with pytest.raises(QuotaExceeded):
        await keep("default")
    (gone,) = [row.vm_id for row in await functions.instances() if row.function_id == made[0]]
    await functions.rig.ok("DELETE", f"/v1/functions/{made[0]}")

    async def ended() -> int | None:
        async with server.database.reading() as session:
            row = await session.get(VmRow, gone)
        is_over = row is not None and row.state == VmState.DESTROYED and row.log_complete
        return row.updated_ms if row is not None and is_over else None

    ended_ms = await eventually(ended, "the instance is gone, and its log is whole")
    with pytest.raises(QuotaExceeded):
        await keep("default", lambda: ended_ms)
    await keep("default", lambda: ended_ms + RECENTLY_MS)
    async with server.database.reading() as session:
        assert await session.get(MaskRow, gone) is None


@on_one_store
async def test_a_secret_is_in_no_error_and_no_file_of_the_server(functions: Functions) -> None:
    """Of secrets that were put, wrongly, too, used, told of in an error, and replaced."""
    rig = functions.rig
    for value in (OTHER, VALUE):
        await put(functions, value)
    await rig.client.put("/v1/secrets/KEY", json={"value": [VALUE]})
    await rig.client.put("/v1/secrets/KEY", params={"x": "y"}, json={"value": VALUE})
    function_id = await functions.made(FAIL, settings={"secrets": ["KEY"]})
    failed = await functions.invoke(function_id)
    assert failed["reason"] == "handler_error"
    assert failed["error"]["message"].startswith("cannot log in with *** or ")
    marks = ("sk_live", base64.b64encode(VALUE.encode()).decode()[:12])
    assert not any(mark in json.dumps(failed) for mark in marks)
    folder = rig.settings.server_dir
    assert await asyncio.to_thread(files_with, folder, *marks) == []
    assert await asyncio.to_thread(files_with, folder, "handler_error")


def files_with(folder: Path, *marks: str) -> list[Path]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [path for path in files if any(mark.encode() in path.read_bytes() for mark in marks)]
