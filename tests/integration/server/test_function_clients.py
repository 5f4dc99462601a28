"""Both clients against the server, with adapters in the place of VMs: functions, from a folder of
code to answers."""

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest

from cakework_client import (
    AsyncCakeworkClient,
    CakeworkClient,
    CronConfig,
    DeployFailed,
    Invocation,
    NoLiveVersion,
    NotFound,
    Settings,
    TimedOut,
    TriggerSettings,
    WebhookConfig,
)

from .function_node import FunctionNode
from .rig import KEY, Rig, eventually, settings_for
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio
TYPESCRIPT = Path(__file__).resolve().parents[3] / "sdk" / "typescript"
CODE = """\
import time
def handler(event, context):
    data = event.get("data")
    if data == "raise":
        raise ValueError("no")
    if data == "slow":
        time.sleep(600)
    if data == "bytes":
        return b"\\x00\\xff"
    return {"data": data}
"""


@pytest.fixture
def database_url() -> None:
    """One store is enough: what either answers has tests of its own."""


@pytest.fixture
async def rig(folder: Path, tmp_path: Path, anyio_backend: str) -> AsyncGenerator[Rig]:
    """A server whose builds succeed by themselves."""
    async with (
        FunctionNode(settings_for(folder, None), tmp_path).hosting() as node,
        served(folder, node, None) as functions,
    ):
        building = asyncio.create_task(_build(functions))
        yield functions.rig
        building.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await building


async def _build(functions: Functions) -> None:
    while True:
        for build_id in functions.node.builds.copy():
            await functions.node.succeed(build_id)
        await asyncio.sleep(0.02)


@pytest.fixture
def code(tmp_path: Path) -> Path:
    """A folder of code, with what is not to be sent."""
    path = tmp_path / "code"
    for name in (".venv", "lib"):
        (path / name).mkdir(parents=True)
    (path / "main.py").write_text(CODE)
    (path / ".dockerignore").write_text("*.key\n")
    for name in ("private.key", ".venv/a.py", "lib/b.py"):
        (path / name).write_text("x = 1\n")
    return path


def address(rig: Rig) -> str:
    return str(rig.client.base_url)


@pytest.mark.contract(
    "createFunction",
    "listFunctions",
    "getFunction",
    "updateFunction",
    "deleteFunction",
    "deployFunction",
    "listVersions",
    "getVersion",
    "getVersionSource",
    "promoteVersion",
    "invokeFunction",
    "cancelInvocation",
    "replayInvocation",
)
async def test_code_goes_in_and_answers_come_out(rig: Rig, code: Path) -> None:
    """Of the asynchronous client: every call about functions and invocations."""
    async with AsyncCakeworkClient(url=address(rig), api_key=KEY) as client:
        settings: Settings = {"retry": {"maxAttempts": 1}, "labels": {"a": "b"}}
        made = await client.create_function("f", "python3.11", settings=settings)
        assert (made.state, made.settings.retry.max_attempts) == ("empty", 1)
        with pytest.raises(NoLiveVersion):
            await client.invoke(made.id)
        version = await client.deploy_folder(made.id, code, message="first")
        ready = await client.wait_for_version(made.id, version.version, timeout=60)
        assert (ready.state, ready.message) == ("ready", "first")
        sent = (await client.get_version_source(made.id, 1)).files
        assert {file.path for file in sent} == {".dockerignore", "lib/b.py", "main.py"}
        await about_work(client, made.id)
        await about_dead_letters(client, made.id)

        changed = await client.update_function(made.id, {"timeout": 7})
        assert (changed.settings.timeout, changed.settings.labels) == (7, {"a": "b"})
        files = {"main.py": "import nothing_there\n"}
        broken = await client.deploy_function(made.id, {"files": files})
        with pytest.raises(DeployFailed, match="nothing_there"):
            await client.wait_for_version(made.id, broken.version)
        assert (await client.get_version(made.id, broken.version)).state == "failed"
        assert [each.version async for each in client.iter_versions(made.id)] == [2, 1]
        assert (await client.promote_version(made.id, 1)).live_version == 1
        assert [each.id async for each in client.iter_functions(name="f")] == [made.id]
        await client.delete_function(made.id)
        with pytest.raises(NotFound):
            await client.get_function(made.id)


async def about_work(client: AsyncCakeworkClient, function_id: str) -> None:
    done = await client.invoke(function_id, {"n": 1})
    assert (done.state, done.result, len(done.attempts)) == ("succeeded", {"data": {"n": 1}}, 1)
    assert await client.get_invocation(done.id, wait=1) == done
    assert (await client.get_invocation_event(done.id))["data"] == {"n": 1}
    raw = await client.invoke(function_id, "bytes")
    result = await client.get_invocation_result(raw.id)
    assert (result.content, result.content_type) == (b"\x00\xff", "application/octet-stream")

    seen: dict[str, str] = {}
    following = client.follow_invocations(function_id=function_id, timeout=60)
    first = asyncio.ensure_future(anext(following))
    many = client.invoke_many(function_id, range(5), at_once=2)
    assert [each.result["data"] async for each in many] == [0, 1, 2, 3, 4]
    found = await first
    while list(seen.values()).count("succeeded") < 2:
        seen[found.id] = found.state
        found = await anext(following)
    await following.aclose()

    with pytest.raises(TimedOut):
        await client.invoke(function_id, "slow", timeout=2)
    (slow,) = (await client.list_invocations(function_id=function_id, state="running")).invocations
    await client.cancel_invocation(slow.id)
    assert (await client.wait_for_invocation(slow.id)).state == "canceled"


async def about_dead_letters(client: AsyncCakeworkClient, function_id: str) -> None:
    failed = await client.invoke(function_id, "raise")
    assert failed.error is not None
    assert (failed.state, failed.reason, failed.error.type) == (
        *("failed", "handler_error"),
        "ValueError",
    )
    dead = client.iter_dead_letters(function_id=function_id, from_="2020-01-01")
    assert [each.id async for each in dead] == [failed.id]
    again = await client.replay_invocation(failed.id, event={"data": "better"})
    assert (await client.wait_for_invocation(again.id)).state == "succeeded"
    for _ in range(2):
        await client.invoke(function_id, "raise")
    which = {"functionId": function_id}
    assert (await client.replay_dead_letters(filter=which, per_second=0.001)).matched == 2

    async def replayed() -> list[Invocation]:
        page = await client.list_dead_letters(function_id=function_id)
        return [each for each in page.invocations if each.replay_of]

    await eventually(replayed, "the first was replayed, and failed again")
    assert (await client.discard_dead_letters(filter=which)).matched == 2


async def test_the_client_without_async_does_the_same(rig: Rig, code: Path) -> None:
    """What waits, iterates and follows in it is made of the other: one way through it is enough."""

    def work() -> None:
        with CakeworkClient(url=address(rig), api_key=KEY) as client:
            function = client.create_function("g", "python3.11")
            version = client.deploy_folder(function.id, code)
            client.wait_for_version(function.id, version.version)
            assert client.invoke(function.id, None).result == {"data": None}
            many = client.invoke_many(function.id, "abc", at_once=2)
            assert [each.result["data"] for each in many] == ["a", "b", "c"]
            listed = list(client.iter_invocations(function_id=function.id))
            assert [each.state for each in listed] == ["succeeded"] * 4
            following = client.follow_invocations(function_id=function.id, timeout=0.5)
            with pytest.raises(TimedOut):
                next(following)

    await asyncio.to_thread(work)


@pytest.mark.contract(
    "createTrigger",
    "listTriggers",
    "getTrigger",
    "updateTrigger",
    "deleteTrigger",
    "runTrigger",
    "rotateTriggerSecret",
    "previewSchedule",
    "emitEvents",
    "listEvents",
    "getEvent",
    "testFilter",
)
async def test_triggers_and_events(rig: Rig, code: Path) -> None:
    """Of the asynchronous client: every call about them, and what comes of each."""
    async with AsyncCakeworkClient(url=address(rig), api_key=KEY) as client:
        function = await client.create_function("f", "python3.11")
        await client.deploy_folder(function.id, code)
        await client.wait_for_version(function.id, 1)
        await about_schedules(client, function.id)
        await about_events(client, function.id)
        config: TriggerSettings = {"verify": {"scheme": "standard"}}
        hook = await client.create_trigger(function.id, "webhook", config)
        assert (hook.secret or "").startswith("whsec_")
        rotated = await client.rotate_trigger_secret(hook.id, url=True)
        assert rotated.secret not in (None, hook.secret)
        assert rotated.url != hook.url
        assert isinstance(rotated.config, WebhookConfig)
        assert rotated.config.verify.scheme == "standard"


async def about_schedules(client: AsyncCakeworkClient, function_id: str) -> None:
    cron, zone = "0 9 * * 1-5", "Europe/Berlin"
    times = (await client.preview_schedule(cron, time_zone=zone, count=3)).times
    config: TriggerSettings = {"cron": cron, "timeZone": zone, "data": {"n": 1}}
    made = await client.create_trigger(function_id, "cron", config, external_id="mine")
    assert (made.next or [])[:3] == times
    again = await client.create_trigger(function_id, "cron", config, external_id="mine")
    assert again.id == made.id
    ran = await client.run_trigger(made.id)
    assert (ran.trigger, ran.trigger_id) == ("cron", made.id)
    assert (await client.wait_for_invocation(ran.id)).result == {"data": {"n": 1}}
    of = [each.id async for each in client.iter_invocations(trigger_id=made.id)]
    assert of == [ran.id]
    assert (await client.update_trigger(made.id, enabled=False)).state == "paused"
    changed = await client.update_trigger(made.id, enabled=True, config={"timeZone": None})
    assert isinstance(changed.config, CronConfig)
    assert (changed.state, changed.config.time_zone) == ("active", "UTC")
    assert (await client.get_trigger(made.id)).last_result == "succeeded"
    found = [each.id async for each in client.iter_triggers(function_id=function_id, type="cron")]
    assert found == [made.id]
    await client.delete_trigger(made.id)
    with pytest.raises(NotFound):
        await client.get_trigger(made.id)


async def about_events(client: AsyncCakeworkClient, function_id: str) -> None:
    large = {"data": {"total": [{"numeric": [">", 100]}]}}
    wanted = await client.create_trigger(function_id, "event", {"types": ["o.*"]}, filter=large)
    one = await client.emit("o.paid", data={"total": 120}, subject="o-1", id="1", source="/shop")
    assert (one.duplicate, one.invocations) == (False, 1)
    again = await client.emit("o.paid", data={"total": 120}, id="1", source="/shop")
    assert (again.duplicate, again.id) == (True, one.id)
    (led,) = (await client.get_event(one.id)).invocations or []
    assert led.trigger_id == wanted.id
    done = await client.wait_for_invocation(led.id)
    assert done.result == {"data": {"total": 120}}
    assert done.cause is not None
    assert done.cause.event_id == one.id
    many = [{"type": "o.paid", "data": {"total": total}} for total in (9, 900)]
    emitted = (await client.emit_events(many)).events
    assert [each.invocations for each in emitted] == [0, 1]
    assert [each.id async for each in client.iter_events(subject="o-1")] == [one.id]
    assert len((await client.list_events(type="o.paid", from_="2020-01-01")).events) == 3
    match = await client.test_filter(large, {"data": {"total": 9}})
    assert (match.matches, bool(match.because)) == (False, True)


@pytest.mark.parametrize("tests", ["functions", "triggers"])
async def test_the_typescript_client_does_the_same(rig: Rig, tests: str) -> None:
    """Its own tests, which the platform is held against, too."""
    node = shutil.which("node", path=f"{TYPESCRIPT.parents[1]}/.venv/bin:{os.environ['PATH']}")
    assert node is not None, "tools/setup installs it"
    assert (TYPESCRIPT / "dist" / "esm").exists(), "npm run build makes it"
    given = {"URL": address(rig), "API_KEY": KEY}
    given |= dict.fromkeys(("TEST_IMAGE", "TEST_REFERENCE", "TEST_PASSWORD", "TEST_HOOKS"), "none")
    process = await asyncio.create_subprocess_exec(
        *(node, "--test", "--test-timeout=120000", f"tests/server/{tests}.test.ts"),
        cwd=TYPESCRIPT,
        env={**os.environ, **{f"CAKEWORK_{name}": value for name, value in given.items()}},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode == 0, output.decode()
