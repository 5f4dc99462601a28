"""Functions by command, against a real server whose VMs are adapters on this machine."""

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncGenerator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from .function_node import FunctionNode
from .rig import eventually, settings_for
from .test_cli_sources import cakework
from .test_functions import Functions, served

pytestmark = pytest.mark.anyio

PATIENCE_S = 240.0
MAIN = """\
def handler(event, context):
    data = event.get("data")
    if data == "fail":
        raise ValueError("no stock")
    if data == "bytes":
        return b"\\x00\\xff"
    return {"said": data}
"""


class Commands:
    """Runs commands."""

    def __init__(self, functions: Functions) -> None:
        self.functions = functions
        self.may_build = asyncio.Event()
        self.may_build.set()

    async def start(self, *words: str | Path, stdin: int = asyncio.subprocess.DEVNULL):
        return await cakework(self.functions.rig, *map(str, words), stdin=stdin)

    async def run(self, *words: str | Path, given: str | None = None) -> tuple[int, str, str]:
        """Return exit code, standard output and standard error."""
        stdin = asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE
        command = await self.start(*words, stdin=stdin)
        return await command.ended(None if given is None else given.encode())

    async def ok(self, *words: str | Path, given: str | None = None) -> str:
        """Return the standard output of a command that succeeds."""
        status, output, errors = await self.run(*words, given=given)
        assert status == 0, errors
        return output

    async def json(self, *words: str | Path) -> Any:
        """Return what a command prints with --json."""
        return json.loads(await self.ok(*words, "--json"))


@pytest.fixture
async def commands(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, anyio_backend: str
) -> AsyncGenerator[Commands]:
    """Commands, on a server whose builds succeed as they are asked for."""
    hosted = FunctionNode(settings_for(folder, None), tmp_path_factory.mktemp("hosted"))
    async with hosted.hosting() as node, served(folder, node, None) as functions:
        made = Commands(functions)
        building = asyncio.create_task(_succeed(node, made.may_build))
        yield made
        building.cancel()
        with suppress(asyncio.CancelledError):
            await building


async def _succeed(node: FunctionNode, may_build: asyncio.Event) -> None:
    while True:
        await may_build.wait()
        for build_id in node.builds.copy():
            await node.push(node.build_line(build_id, "STEP 1/9: FROM cakework/python"))
            await node.succeed(build_id)
        await asyncio.sleep(0.01)


def project(folder: Path, code: str = MAIN, more: str = "") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "cakework.toml").write_text(f'name = "orders"\nruntime = "python3.11"\n{more}')
    (folder / "main.py").write_text(code)
    return folder


async def test_a_functions_road(commands: Commands, tmp_path: Path) -> None:
    """Deployed, invoked, changed, broken, rolled back, deleted: each step says what it did, and
    what cannot be imported leaves what was live."""
    folder = project(tmp_path / "orders", more="timeout = 20\n")
    commands.may_build.clear()
    command = await commands.start("deploy", folder)
    assert command.process.stderr
    async with asyncio.timeout(PATIENCE_S):
        errors = (await command.process.stderr.readuntil(b"building its")).decode()
    commands.may_build.set()
    status, output, more = await command.ended()
    errors += more
    assert (status, output.startswith("http://")) == (0, True), errors
    assert "made function orders (python3.11)" in errors
    assert "STEP 1/9" in errors
    assert "version 1 is live after" in errors
    assert "it handles event" in errors
    assert await commands.ok("invoke", "orders", "--data", '{"n": 1}') == '{"said": {"n": 1}}\n'

    project(folder, MAIN, "timeout = 30\n")
    _, _, errors = await commands.run("deploy", folder)
    assert "changed timeout of orders" in errors
    assert "version 1 is live as it was: no code has changed" in errors
    shown = await commands.json("functions", "show", "orders")
    assert (shown["liveVersion"], shown["settings"]["timeout"]) == (1, 30)
    one, two = ('[[limits]]\ntype = "concurrency"\nlimit = 2\n', 'type = "rate"\nlimit = 5\n')
    project(folder, MAIN, f"timeout = 30\n{one}[[limits]]\n{two}period = 60\n")
    await commands.ok("deploy", folder)
    told = await commands.ok("functions", "show", "orders")
    assert re.search(r"\n  limits( +)type=concurrency, .*\n(?: +\S.*\n)*      ", told)
    assert re.search(r"\n {17}type=rate, limit=5, period=60\n?", told)
    project(folder, MAIN, "timeout = 30\nlimits = []\n")
    await commands.ok("deploy", folder)

    project(folder, "import nothing_there\n")
    status, output, errors = await commands.run("deploy", folder)
    assert (status, output) == (1, "")
    assert "Version 2 could not be made. Version 1 is live as before." in errors
    assert "ModuleNotFoundError: No module named 'nothing_there'" in errors

    project(folder, "def handler(event):\n    return 3\n")
    deployed = await commands.json("deploy", folder, "-m", "three", "--no-promote")
    assert (deployed["version"]["version"], deployed["function"]["liveVersion"]) == (3, 1)
    assert await commands.ok("promote", "orders", "3") == (
        "orders: version 3 is live instead of 1.\n"
    )
    assert await commands.ok("rollback", "orders") == "orders: version 1 is live instead of 3.\n"
    listed = await commands.json("versions", "orders")
    assert [(each["version"], each["state"]) for each in listed] == [
        (3, "ready"),
        (2, "failed"),
        (1, "ready"),
    ]
    status, _, errors = await commands.run("functions", "delete", "order")
    assert (status, "Did you mean orders?" in errors) == (1, True)
    for other in ("nothing-like-it", "fn_00000000000000000000000000"):
        status, _, errors = await commands.run("invoke", other)
        told = f"There is no function {other}. `cakework functions list` shows them."
        assert (status, told in errors) == (1, True), errors
    await commands.ok("functions", "delete", "orders")
    assert await commands.json("functions") == []


async def test_work_by_command(commands: Commands, tmp_path: Path) -> None:
    """Its end is the command's: the result on standard output, the traceback and 1 if it failed.
    What failed for good is listed, replayed and discarded."""
    folder = project(tmp_path / "orders", more="retry.maxAttempts = 1\n")
    await commands.ok("deploy", folder)
    said = await commands.ok("invoke", "orders", "-d", "-", given="[1]")
    assert json.loads(said) == {"said": [1]}
    status, output, errors = await commands.run("invoke", "orders", "-d", '"fail"')
    assert (status, output) == (1, "")
    assert "\nerror: ValueError: no stock\n" in errors
    assert errors.count('main.py", line 4, in handler') == 1, "its traceback, from its log"
    status, output, errors = await commands.run("invoke", "orders", "-d", '"fail"', "--json")
    assert (status, json.loads(output)["state"]) == (1, "failed")
    error = json.loads(errors.splitlines()[-1])["error"]
    assert (error["code"], error["type"], error["message"]) == (
        "handler_error",
        "ValueError",
        "no stock",
    )

    taken = (await commands.ok("invoke", "orders", "-d", '"later"', "--async")).strip()

    async def is_done() -> bool:
        found = await commands.functions.rig.ok("GET", f"/v1/invocations/{taken}")
        return found["state"] == "succeeded"

    await eventually(is_done, "it is done without anybody waiting")
    later = ("-d", '"x"', "--async", "--delay", "900")
    waiting = (await commands.ok("invoke", "orders", *later)).strip()
    assert await commands.ok("invocations", "cancel", waiting) == f"{waiting}\n"
    failed = await commands.json("invocations", "--function", "orders", "--state", "failed")
    assert len(failed) == 2
    shown = await commands.ok("invocations", "show", failed[0]["id"])
    assert "failed: handler_error" in shown
    assert "attempt 1  handler_error: version 1" in shown
    again = await commands.ok("invocations", "replay", taken, "--wait")
    assert json.loads(again) == {"said": "later"}

    assert [each["id"] for each in await commands.json("dead")] == [each["id"] for each in failed]
    assert await commands.ok("dead", "discard", failed[0]["id"]) == "1 discarded\n"
    assert (
        await commands.ok("dead", "replay", "--all", "--function", "orders") == "1 to be replayed\n"
    )


async def test_dev_runs_what_is_saved(commands: Commands, tmp_path: Path) -> None:
    """Each save, and whatever is wrong with it; nothing is left of it after Ctrl-C."""
    folder = project(tmp_path / "orders")
    await commands.ok("deploy", folder, "--name", "theirs")
    status, _, refused = await commands.run("dev", folder, "--name", "theirs")
    assert (status, "that no `cakework dev` has made" in refused) == (2, True)
    command = await commands.start("dev", folder, "--data", "1")
    process = command.process
    assert process.stdout
    errors = process.stderr
    assert errors

    lines: list[str] = []

    async def told(words: str) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not lines or words not in lines[-1]:
                lines.append((await errors.readline()).decode())
                assert lines[-1], f"it ended before it said {words}"

    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline() == b'{"said": 1}\n'
    await told("answered")
    project(folder, "import nothing_there\n")
    await told("No module named 'nothing_there'")
    project(folder, more="memori = 1\n")
    await told("line 3: memori is unknown; did you mean memory?")
    project(folder, "def handler(event):\n    raise KeyError(event['data'])\n")
    await told("KeyError: 1")
    project(folder, "def handler(event):\n    return 2\n")
    async with asyncio.timeout(PATIENCE_S):
        assert await process.stdout.readline() == b"2\n"
    listed = await commands.json("functions")
    assert [each["name"] for each in listed] == ["orders-dev", "theirs"]
    os.kill(process.pid, signal.SIGINT)
    await told("deleted orders-dev")
    assert await process.wait() == 130
    assert [each["name"] for each in await commands.json("functions")] == ["theirs"]
    assert await commands.json("dead") == [], "nor of what it failed at"
    said = "".join([*lines, (await errors.read()).decode()])
    assert said.count("raise KeyError(event['data'])") == 1, said
    assert said.count("import nothing_there") == 1, said


async def test_dead_letters_of_a_function_that_is_gone(commands: Commands, tmp_path: Path) -> None:
    """Nobody is told that they are replayed; those of another function are."""
    kept = project(tmp_path / "kept", more="retry.maxAttempts = 1\n")
    gone = project(tmp_path / "gone", more="retry.maxAttempts = 1\n")
    for folder in (kept, gone):
        await commands.ok("deploy", folder, "--name", folder.name)
        status, _, _ = await commands.run("invoke", folder.name, "-d", '"fail"')
        assert status == 1
    (dead,) = [each["id"] for each in await commands.json("dead", "--function", "gone")]
    await commands.ok("functions", "delete", "gone")
    status, output, errors = await commands.run("dead", "replay", dead)
    assert (status, output) == (1, "0 to be replayed\n")
    assert "1 of 1 cannot be replayed" in errors
    assert "its function is deleted" in errors
    status, output, errors = await commands.run("dead", "replay", "--all")
    assert (status, output) == (0, "1 to be replayed\n")
    assert "cakework dead" in errors
    assert "(deleted)" in errors
    assert await commands.ok("dead", "discard", dead) == "1 discarded\n"
    status, output, errors = await commands.run("dead", "replay", "--all")
    assert (status, errors) == (0, "")


async def test_secrets_that_are_not_there_are_warned_of(commands: Commands, tmp_path: Path) -> None:
    """After the deploy, with what sets them; what the function does see is not named."""
    more = 'secrets = ["OWN", "OF_ACCOUNT", "NOWHERE"]\n'
    folder = project(tmp_path / "orders", more=more)
    await commands.ok("secrets", "set", "OF_ACCOUNT", given="1")
    status, _, errors = await commands.run("deploy", folder)
    assert status == 0
    warnings = [line for line in errors.splitlines() if line.startswith("warning: ")]
    assert len(warnings) == 2
    assert "`cakework secrets set NOWHERE`" in warnings[0]
    assert "`cakework secrets set OWN`" in warnings[1]
    await commands.ok("secrets", "set", "OWN", "--function", "orders", given="1")
    _, _, errors = await commands.run("deploy", folder)
    assert errors.count("warning: ") == 1
    _, _, errors = await commands.run("deploy", folder, "--user", "ada")
    assert errors.count("warning: ") == 3, "the account's is not shared, and OWN another's"
    assert "`cakework secrets set OF_ACCOUNT --user ada`" in errors
    await commands.ok("secrets", "set", "OF_ACCOUNT", "--shared", given="1")
    await commands.ok("secrets", "set", "NOWHERE", "--user", "ada", given="1")
    _, _, errors = await commands.run("deploy", folder, "--user", "ada")
    assert errors.count("warning: ") == 1
    _, _, errors = await commands.run("deploy", folder)
    assert errors.count("warning: ") == 0, "it has it for that end user"


async def test_what_took_too_long_says_how_long_that_is(commands: Commands, tmp_path: Path) -> None:
    """In seconds, as the settings have it."""
    code = "import time\n\ndef handler(event):\n    time.sleep(900)\n"
    folder = project(tmp_path / "orders", code, "timeout = 2\n")
    await commands.ok("deploy", folder)
    status, output, errors = await commands.run("invoke", "orders")
    assert (status, output) == (1, "")
    assert "error: TimedOut: The handler took longer than its timeout of 2 s.\n" in errors
