"""Every way that code comes in, and what is refused: the server as it is, on both stores."""

import io
import json
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import func, select

from cakework.server.functions import adapter, trials
from cakework.server.functions import functions as functions_module
from cakework.server.store.function_models import (
    DraftRow,
    InstanceRow,
    SourceRow,
    TrialRow,
    VersionRow,
)

from .function_node import FunctionNode, source
from .rig import Json, Rig, as_problem, eventually, running, settings_for
from .test_functions import COUNT, Functions, served

pytestmark = pytest.mark.anyio

ONE = "def handler(event, context):\n    return 1\n"
TWO = "def handler(event, context):\n    return 2\n"
TOKEN = "ghp_thatIsToBeFoundNowhere"


def tar(**files: str) -> bytes:
    """Return a tar.gz of files, named with __ for a slash and _ for a dot, or as they are."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            plain = name if "/" in name else name.replace("__", "/").replace("_", ".")
            info = tarfile.TarInfo(plain)
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return made.getvalue()


async def made(rig: Rig, **fields: Any) -> str:
    """Make a function; return its id."""
    body = {"name": "f", "runtime": "python3.11", **fields}
    return (await rig.ok("POST", "/v1/functions", json=body))["id"]


async def rows(rig: Rig, table: Any) -> list[Any]:
    async with rig.server.database.reading() as session:
        return list(await session.scalars(select(table)))


@pytest.fixture
async def functions(
    folder: Path, tmp_path: Path, anyio_backend: str, database_url: str | None
) -> AsyncGenerator[Functions]:
    async with (
        FunctionNode(settings_for(folder, None), tmp_path).hosting() as node,
        served(folder, node, database_url) as found,
    ):
        yield found


async def test_an_archive_becomes_a_version(rig: Rig) -> None:
    """As a form, with fields beside it; its dependencies' folder is left out."""
    function_id = await made(rig)
    path = f"/v1/functions/{function_id}/versions"
    archive = tar(main_py=ONE, lib__a_py="a = 1\n", **{"node_modules/b": ""})
    archive_file = {"archive": ("code.tgz", archive, "application/gzip")}
    fields = {"entry": "main.py:handler", "promote": "false", "message": "ü"}
    version = await rig.ok("POST", path, files=archive_file, data=fields)
    assert (version["state"], version["entry"]) == ("building", "main.py:handler")
    assert version["message"] == "ü"
    code = await rig.ok("GET", f"{path}/1/source")
    assert [(each["dir"], each["name"]) for each in code["files"]] == [
        ("lib", "a.py"),
        (".", "main.py"),
    ]
    async with rig.server.database.reading() as session:
        row = await session.get(VersionRow, (function_id, 1))
    assert row is not None
    assert not row.promote
    broken = {"archive": ("code.tgz", archive[:-30], "application/gzip")}
    problem = await rig.refused(400, "POST", path, files=broken)
    assert "cannot be read" in problem["detail"]
    both = {**archive_file, "source": (None, "x")}
    await rig.refused(400, "POST", path, files=both)
    await rig.refused(400, "POST", path, files={"archiv": ("a", archive)})
    assert (await rig.ok("GET", path))["versions"][0]["version"] == 1


@pytest.mark.contract("deployFunctionFromArchive")
async def test_archives_are_deployed_by_the_old_call(functions: Functions) -> None:
    """The answer has its three words; the handler takes and answers what it once did."""
    rig, path = functions.rig, "/v1/function/deploy/archive"
    code = "def hello(request):\n    return {'statusCode': 200, 'body': 'hi'}\n"
    archive = {"archive": ("a.tar.gz", tar(app__web_py=code))}
    fields = {
        "runtime": "PYTHON311",
        "platform": "linux/amd64",
        "handlerFile": "app/web.py",
        "handlerFunction": "hello",
    }
    key = {"Idempotency-Key": "once"}
    deployed = await rig.ok("POST", path, files=archive, data=fields, headers=key)
    # A form that is sent again has another boundary.
    again = await rig.ok("POST", path, files=archive, data=fields, headers=key)
    assert again == deployed
    assert deployed.keys() == {"id", "endpoint", "buildId"}
    # At once, however far its build is.
    log = await rig.ok("GET", f"/v1/function/build/{deployed['buildId']}/logs")
    assert log["lines"] == []
    version = await functions.ended(deployed["id"], 1, "ready")
    assert (version["entry"], version["handlers"]) == ("app/web.py:hello", ["http"])
    function = await rig.ok("GET", f"/v1/functions/{deployed['id']}")
    assert (function["url"], function["liveVersion"]) == (deployed["endpoint"], 1)
    for wrong in (
        {"runtime": "ruby"},
        {"platform": "windows"},
        {"handlerFile": "other.py"},
        {"handlerFile": ""},
    ):
        await rig.refused(400, "POST", path, files=archive, data=fields | wrong)
    await rig.refused(400, "POST", path, data=fields)
    await rig.refused(400, "POST", path, json=fields)
    assert len((await rig.ok("GET", "/v1/functions"))["functions"]) == 1
    theirs: httpx2.AsyncClient
    async with await rig.other_account() as theirs:
        response = await theirs.get(f"/v1/function/build/{deployed['buildId']}/logs")
    assert response.status_code == 404


async def test_code_comes_from_github(rig: Rig) -> None:
    """The node fetches it; a folder of it is enough, and the token is not kept."""
    function_id = await made(rig)
    path = f"/v1/functions/{function_id}/versions"
    rig.node.code["team/app"] = tar(main_py=ONE, fn__main_py=TWO, fn__lib__a_py="")
    given: Json = {"repository": "team/app", "branch": "main", "token": TOKEN}
    for wanted in (given, {**given, "folder": "fn"}):
        await rig.ok("POST", path, json={"source": {"github": wanted}})
    order = rig.node.code_orders[0]
    assert (order.source.token, order.account_id) == (TOKEN, "default")
    codes = [(await rig.ok("GET", f"{path}/{number}/source"))["files"] for number in (1, 2)]
    assert [len(files) for files in codes] == [3, 2]
    assert {each["content"] for each in codes[1]} == {TWO, ""}
    for wrong in (
        {**given, "repository": "https://elsewhere.example/a"},
        {**given, "branch": "--upload-pack=id"},
        {**given, "folder": "../x"},
        {**given, "folder": "/etc"},
    ):
        problem = await rig.refused(400, "POST", path, json={"source": {"github": wrong}})
        assert problem["errors"][0]["field"].startswith("source.github.")
    absent = {**given, "repository": "team/other"}
    problem = await rig.refused(400, "POST", path, json={"source": {"github": absent}})
    assert problem["detail"] == "It is not there."
    nothing = {**given, "folder": "none"}
    problem = await rig.refused(400, "POST", path, json={"source": {"github": nothing}})
    assert problem["detail"] == "The source has no files."
    for each in rig.settings.server_dir.rglob("*"):
        assert each.is_dir() or TOKEN.encode() not in each.read_bytes()
    assert len(rig.node.code_orders) == 4


@pytest.mark.contract("getDraft", "putDraft", "deleteDraft")
async def test_a_draft_is_saved_over_what_was_looked_at(rig: Rig) -> None:
    function_id = await made(rig)
    path = f"/v1/functions/{function_id}/draft"

    async def put(code: str, if_match: str | None) -> httpx2.Response:
        headers = {"If-Match": if_match} if if_match is not None else {}
        return await rig.client.put(path, json=source(code), headers=headers)

    await rig.refused(404, "GET", path)
    refused = await put(ONE, None)
    assert (refused.status_code, as_problem(refused)["code"]) == (412, "precondition_failed")
    assert refused.headers["etag"] == '"0"'
    first = await put(ONE, '"0"')
    assert first.status_code == 200, first.text
    etag = first.headers["etag"]
    assert (await put(TWO, '"0"')).status_code == 412
    found = await rig.client.get(path)
    assert (found.headers["etag"], found.json()["files"][0]["content"]) == (etag, ONE)
    second = await put(TWO, etag)
    assert second.headers["etag"] not in (etag, '"0"')
    stale = await put(ONE, etag)
    assert (stale.status_code, stale.headers["etag"]) == (412, second.headers["etag"])
    assert (await rig.client.get(path)).json()["files"][0]["content"] == TWO
    assert (await put(ONE, "*")).status_code == 200
    broken = await rig.client.put(path, json={"files": []}, headers={"If-Match": "*"})
    assert broken.status_code == 400
    old = await rig.client.delete(path, headers={"If-Match": etag})
    assert old.status_code == 412
    await rig.ok("DELETE", path)
    await rig.ok("DELETE", path)
    await rig.refused(404, "GET", path)
    assert await rows(rig, DraftRow) == []
    async with await rig.other_account() as theirs:
        for method in ("GET", "DELETE"):
            assert (await theirs.request(method, path)).status_code == 404
        taken = await theirs.put(path, json=source(ONE), headers={"If-Match": "*"})
    assert taken.status_code == 404


async def test_drafts_and_versions_are_deployed(rig: Rig) -> None:
    """A version's code comes again with its handler; what is not locked is installed anew."""
    function_id = await made(rig)
    one = f"/v1/functions/{function_id}"
    await rig.refused(404, "POST", f"{one}/versions", json={"source": {"draft": True}})
    given = source(ONE, **{"requirements.txt": "requests\n", "other.py": TWO})
    draft = await rig.client.put(f"{one}/draft", json=given, headers={"If-Match": "*"})
    assert draft.status_code == 200
    body: Json = {"source": {"draft": True}, "entry": "other.py"}
    first = await rig.ok("POST", f"{one}/versions", json=body)
    again = await rig.ok("POST", f"{one}/versions", json={"source": {"version": 1}})
    assert (again["version"], again["entry"]) == (2, "other.py")
    assert again["sourceDigest"] == first["sourceDigest"]
    assert again["buildId"] != first["buildId"]
    assert len(await rows(rig, SourceRow)) == 1
    wrongs: tuple[Json, ...] = (
        {},
        {"draft": True, "version": 1},
        {"draft": False},
        {"draft": None},
        {"version": 0},
        {"files": []},
        {"files": None},
        {"archive": "x"},
    )
    for wrong in wrongs:
        await rig.refused(400, "POST", f"{one}/versions", json={"source": wrong})
    await rig.refused(400, "POST", f"{one}/versions", json={})
    await rig.refused(404, "POST", f"{one}/versions", json={"source": {"version": 9}})


@pytest.mark.contract("testFunction")
async def test_code_is_tried_without_a_version_of_it(functions: Functions) -> None:
    """The answer is an invocation's; nothing of it is left, and what is live is untouched."""
    rig = functions.rig
    function_id = await functions.made(ONE)
    one = f"/v1/functions/{function_id}"
    await rig.refused(404, "POST", f"{one}/test", json={})
    draft = await rig.client.put(f"{one}/draft", json=source(COUNT), headers={"If-Match": "*"})
    assert draft.status_code == 200
    tried = await rig.ok("POST", f"{one}/test", json={"data": 7, "userId": "u"})
    assert (tried["state"], tried["trigger"]) == ("succeeded", "test")
    assert tried["result"] == {"calls": 1, "data": 7, "by": "u"}
    assert [(a["attempt"], a["outcome"]) for a in tried["attempts"]] == [(1, "succeeded")]
    for code, reason, told in (
        ("def handler(", "version_failed", "SyntaxError"),
        ("import nothing_there", "version_failed", "No module named 'nothing_there'"),
        ("a = 1", "version_failed", "handles nothing"),
        ("def handler(event, context):\n    raise ValueError('x')", "handler_error", "ValueError"),
    ):
        failed = await rig.ok("POST", f"{one}/test", json={"source": source(code)})
        assert (failed["state"], failed["reason"]) == ("failed", reason), failed
        assert told in json.dumps(failed["error"])
    assert (await rig.ok("GET", "/v1/dead-letters"))["invocations"] == []
    assert len((await rig.ok("GET", f"{one}/versions"))["versions"]) == 1
    assert (await functions.invoke(function_id))["result"] == 1

    async def gone() -> bool:
        left = [row for row in await rows(rig, InstanceRow) if row.version == 0]
        return not left and not await rows(rig, TrialRow)

    await eventually(gone, "nothing is left of what was tried")
    assert len(functions.node.hosted) <= 1


async def test_a_trial_waits_for_its_dependencies(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered as it is, goes on by itself, and is one of so many; it can be given up."""
    monkeypatch.setattr(trials, "PER_ACCOUNT", 2)
    rig = functions.rig
    function_id = await functions.made(ONE)
    path = f"/v1/functions/{function_id}/test"
    body: Json = {"source": source(TWO, **{"requirements.txt": "requests\n"}), "wait": 0}
    waiting = await rig.ok("POST", path, json=body)
    assert (waiting["state"], waiting["attempt"]) == ("queued", 0)
    other = await rig.ok("POST", path, json=body)
    await rig.refused(429, "POST", path, json=body)
    await rig.ok("POST", f"/v1/invocations/{other['id']}/cancel")

    async def built() -> bool:
        for build_id in functions.node.builds.copy():
            await functions.node.succeed(build_id)
        found = await rig.ok("GET", f"/v1/invocations/{waiting['id']}")
        return found["state"] == "succeeded"

    await eventually(built, "it ran")
    assert (await rig.ok("GET", f"/v1/invocations/{waiting['id']}"))["result"] == 2
    assert len(functions.node.build_orders) == 2


async def test_broken_code_is_refused_and_what_is_live_stays(functions: Functions) -> None:
    """At once where that can be told, else by a version that fails with what was raised."""
    rig = functions.rig
    function_id = await functions.made(ONE)
    path = f"/v1/functions/{function_id}/versions"
    file = {"dir": ".", "name": "main.py", "content": ONE}
    for files, status in (
        ([{**file, "dir": ".."}], 400),
        ([{**file, "dir": "/etc"}], 400),
        ([{**file, "name": "a/b"}], 400),
        ([{**file, "name": "a\0"}], 400),
        ([file, file], 400),
        ([file, {**file, "name": "MAIN.py"}], 400),
        ([{**file, "name": "other.py"}], 400),
        ([{**file, "encoding": "base64"}], 400),
        ([file, {**file, "name": "requirements.txt", "content": "-e /srv"}], 400),
        ([file, {**file, "name": "uv.lock", "content": "version = 1"}], 400),
        ([file, {**file, "name": "pyproject.toml", "content": "["}], 400),
        ([file, {**file, "name": "big", "content": "x" * (11 << 20)}], 413),
        ([{**file, "name": f"{n}.py"} for n in range(1001)], 400),
    ):
        await rig.refused(status, "POST", path, json={"source": {"files": files}})
    await rig.refused(400, "POST", path, json={"source": source(ONE), "lock": "no"})
    await rig.refused(400, "POST", path, json={"source": source(ONE), "entry": "x.py"})
    broken = (
        (source("def handler("), "SyntaxError"),
        (source("\0"), "null bytes"),
        (source("import b\n", **{"b.py": "from main import handler\n"}), "Error"),
        (source("a = 1\n"), "no handler"),
        (source("raise SystemExit(3)\n"), "SystemExit"),
    )
    for code, _ in broken:
        await rig.ok("POST", path, json={"source": code})
    for number, (_, why) in enumerate(broken, 2):
        version = await functions.ended(function_id, number, "failed")
        assert why in version["error"], version
    assert (await functions.invoke(function_id))["result"] == 1
    assert (await rig.ok("GET", f"/v1/functions/{function_id}"))["liveVersion"] == 1
    # What is ready already is not made again, whatever failed since.
    assert (await rig.ok("POST", path, json={"source": source(ONE)}))["version"] == 1


async def test_code_that_never_comes_to_its_end_holds_up_nobody_else(
    functions: Functions, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is imported still when another function is made and answers."""
    monkeypatch.setattr(adapter, "LOAD_S", 3600.0)
    rig = functions.rig
    first = await functions.made(ONE)
    endless = source("import time\nwhile True:\n    time.sleep(1)\n")
    await rig.ok("POST", f"/v1/functions/{first}/versions", json={"source": endless})

    async def hangs() -> bool:
        return len(functions.node.hosted) == 1

    await eventually(hangs, "it is being imported")
    second = await functions.made(TWO, name="g")
    assert (await functions.invoke(second))["result"] == 2
    async with rig.server.database.reading() as session:
        row = await session.get(VersionRow, (first, 2))
    assert row is not None
    assert row.state == "building"


async def test_an_account_has_so_much_and_no_more(
    folder: Path, node: Any, database_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Functions, versions that are being made, and code, also that of drafts."""
    monkeypatch.setattr(functions_module, "PER_ACCOUNT", 2)
    monkeypatch.setattr(functions_module, "BUILDING_MAX", 3)
    settings = settings_for(folder, database_url, max_code_mb_per_account=1)
    async with running(settings, node) as rig:
        function_id, other = await made(rig), await made(rig, name="g")
        problem = await rig.refused(
            429, "POST", "/v1/functions", json={"name": "h", "runtime": "python"}
        )
        assert problem["code"] == "quota_exceeded"
        path = f"/v1/functions/{function_id}/versions"
        large = "x" * (300 << 10)
        for n in range(3):
            given = source(f"# {n}\n{ONE}", data=large)
            await rig.ok("POST", path, json={"source": given})
        problem = await rig.refused(429, "POST", path, json={"source": source(TWO)})
        assert "being made" in problem["detail"]
        full = {"json": source("# 4\n", data=large), "headers": {"If-Match": "*"}}
        problem = await rig.refused(429, "PUT", f"/v1/functions/{other}/draft", **full)
        assert "as much code" in problem["detail"]
        same = {"json": source(f"# 1\n{ONE}", data=large), "headers": {"If-Match": "*"}}
        await rig.ok("PUT", f"/v1/functions/{other}/draft", **same)
        async with await rig.other_account() as theirs:
            body = {"name": "f", "runtime": "python3.11", "source": source(ONE)}
            assert (await theirs.post("/v1/functions", json=body)).status_code == 200
        async with rig.server.database.reading() as session:
            assert await session.scalar(select(func.count()).select_from(SourceRow)) == 4


async def test_what_cannot_be_deployed_makes_no_function(rig: Rig) -> None:
    body: Json = {"name": "f", "runtime": "python3.11", "source": source("", a="")}
    body["source"]["files"] = body["source"]["files"][1:]
    await rig.refused(400, "POST", "/v1/functions", json=body)
    body["source"] = {"draft": True}
    await rig.refused(400, "POST", "/v1/functions", json=body)
    body["runtime"], body["source"] = "image", source(ONE)
    await rig.refused(400, "POST", "/v1/functions", json=body)
    del body["source"]
    problem = await rig.refused(400, "POST", "/v1/functions", json=body)
    assert problem["errors"][0]["message"].endswith("python3.13, python3.11, node24")
    assert (await rig.ok("GET", "/v1/functions"))["functions"] == []
