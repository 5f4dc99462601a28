"""Triggers and events by command, and those of a `cakework.toml`, against a real server whose VMs
are adapters on this machine."""

import json
import re
import shlex
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest

from .test_cli_functions import Commands, commands, project

__all__ = ["commands"]

pytestmark = pytest.mark.anyio
PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"
LARGE = '{"data": {"total": [{"numeric": [">", 100]}]}}'
TRIGGERS = """\
[[triggers]]
type = "cron"
name = "every morning"
cron = "0 9 * * 1-5"
timeZone = "Europe/Berlin"

[[triggers]]
type = "event"
types = ["order.paid"]
filter = { data = { total = [{ numeric = [">", 100] }] } }
retry = { maxAttempts = 2 }
limits = [{ type = "concurrency", limit = 2, key = "data.customerId" }]
"""
HOOK = '[[triggers]]\ntype = "webhook"\nname = "stripe"\nverify = { scheme = "stripe" }\n'


@pytest.fixture
def database_url() -> None:
    """One store is enough: what either answers has tests of its own."""


@pytest.fixture
async def orders(commands: Commands, tmp_path: Path) -> AsyncGenerator[Path]:
    """A folder whose function, orders, is deployed."""
    folder = project(tmp_path / "orders")
    await commands.ok("deploy", folder)
    yield folder


async def listed(commands: Commands) -> list[dict[str, Any]]:
    """Return the triggers, the oldest first."""
    return (await commands.json("triggers"))[::-1]


async def test_a_schedules_road(commands: Commands, orders: Path) -> None:
    """Looked at, made, shown, run, paused, resumed, removed; by id and by name."""
    zone = ("--time-zone", "Europe/Berlin")
    times = await commands.ok("triggers", "preview", "0 9 * * 1-5", *zone, "--count", "2")
    assert len(times.splitlines()) == 2
    assert all(re.search(r" 09:00:00 CES?T  .* UTC$", line) for line in times.splitlines())

    status, _, errors = await commands.run("triggers", "preview", "0", "9", "a.txt", "1-5")
    assert (status, "put it in quotes" in errors) == (2, True)

    cron = ("--cron", "0 9 * * 1-5", *zone, "--name", "every morning", "--data", '"x"')
    status, output, errors = await commands.run("triggers", "add", "orders", *cron)
    assert (status, output[:4]) == (0, "trg_"), errors
    assert "cron 0 9 * * 1-5 Europe/Berlin invokes orders; next 20" in errors
    id_ = output.strip()
    shown = await commands.ok("triggers", "show", "every morning")
    assert re.search(r"\n  function +orders \(fn_", shown)
    assert re.search(r"\n  state +active\n", shown)
    assert re.search(r"\n  next( +)20\S+ \S+ UTC\n      \1(20\S+ \S+ UTC\n?)", shown)
    assert shown.count(":00:00 UTC") == 5
    assert json.loads(await commands.ok("triggers", "run", id_, "--wait")) == {"said": "x"}
    ran = (await commands.ok("triggers", "run", "every morning", "-d", "1")).strip()
    made = await commands.json("invocations", "--trigger", "every morning")
    assert made[0]["id"] == ran
    assert (len(made), {each["triggerId"] for each in made}) == (2, {id_})
    assert f"cron {id_}" in await commands.ok("invocations", "show", ran)

    assert await commands.ok("triggers", "pause", "every morning") == "every morning is paused.\n"
    assert (await commands.json("triggers", "show", id_))["enabled"] is False
    assert "is active; next 20" in await commands.ok("triggers", "resume", id_)
    status, _, errors = await commands.run("triggers", "show", "every mornin")
    assert (status, "Did you mean every morning?" in errors) == (1, True)
    assert await commands.ok("triggers", "remove", "every morning") == "every morning is deleted.\n"
    assert await commands.json("triggers") == []
    _, _, errors = await commands.run("triggers", "add", "orders", "--at", "2020-01-01T00:00:00Z")
    assert "invokes orders; it never comes round: its time has passed" in errors


async def test_what_the_server_refuses_is_told_by_options(commands: Commands, orders: Path) -> None:
    """And what cannot be is not asked for."""
    for words, said in (
        (("--cron", "61 * * * *"), "The trigger:"),
        (("--event", "order.x", "--filter", '{"a": [{"nmeric": 1}]}'), "filter"),
        (("--every", "30", "--on-failure", "order"), "Did you mean orders?"),
    ):
        status, output, errors = await commands.run("triggers", "add", "orders", *words)
        assert (status, output) == (1, ""), errors
        assert said in errors
    assert await commands.json("triggers") == []


async def test_events_by_command(commands: Commands, orders: Path) -> None:
    """Emitted, listed, shown with what they led to, and tried on filters."""
    large = ("--event", "order.*", "--filter", LARGE)
    await commands.ok("triggers", "add", "orders", *large, "--retry", '{"maxAttempts": 1}')
    known = ("--id", "1", "--source", "/shop")
    paid = ("order.paid", "--data", '{"total": 120}', "--subject", "order-17", *known)
    status, output, errors = await commands.run("events", "emit", *paid)
    assert (status, output[:4]) == (0, "evt_"), errors
    assert errors == f"{output.strip()} made 1 invocation\n"
    again = await commands.json("events", "emit", *paid)
    assert (again["id"], again["duplicate"]) == (output.strip(), True)
    many = '[{"type": "order.paid", "data": {"total": 9}}, {"type": "order.sent"}]'
    both = await commands.json("events", "emit", "--event", many)
    assert [each["invocations"] for each in both["events"]] == [0, 0]
    found = await commands.json("events", "--subject", "order-17")
    assert [each["id"] for each in found] == [output.strip()]
    assert len(await commands.json("events", "list")) == 3
    shown = await commands.ok("events", "show", output.strip())
    assert re.search(r"\n  inv_\w+  \w+: orders\n", f"{shown}\n")
    of = await commands.json("invocations", "--event", output.strip())
    assert [each["cause"]["eventId"] for each in of] == [output.strip()]
    match = ("events", "match", "--filter", LARGE, "--event")
    assert (await commands.ok(*match, '{"data": {"total": 120}}')).startswith("It matches.\n")
    status, said, _ = await commands.run(*match, '{"data": {"total": 9}}')
    assert (status, said.splitlines()[0]) == (1, "It does not match.")
    assert "total" in said


async def test_secrets_of_webhooks(commands: Commands, orders: Path) -> None:
    """Shown once where they are made here, taken from standard input where not; in no list."""
    github = ("add", "orders", "--webhook", "github", "--name", "code")
    status, output, errors = await commands.run("triggers", *github)
    assert status == 0, errors
    _, url, secret = output.splitlines()
    assert url.startswith("http")
    assert "the secret is shown this once" in errors
    for words in (("show", "code"), ("list", "--json"), ("show", "code", "--json")):
        assert secret not in await commands.ok("triggers", *words)
    rotated = (await commands.ok("triggers", "rotate", "code")).strip()
    assert rotated not in ("", secret)
    other = (await commands.ok("triggers", "rotate", "code", "--url")).strip()
    assert other.startswith("http")
    assert other != url

    stripe = ("add", "orders", "--webhook", "stripe", "--name", "stripe")
    status, output, errors = await commands.run("triggers", *stripe)
    assert (status, len(output.splitlines())) == (0, 2), errors
    assert "takes nothing until it has the provider's secret" in errors
    status, _, errors = await commands.run("triggers", "rotate", "stripe")
    assert (status, "give it with --secret" in errors) == (2, True)
    given = await commands.run("triggers", "rotate", "stripe", "--secret", given="whsec_theirs\n")
    assert given == (0, "stripe has the provider's secret.\n", "")
    slack = ("add", "orders", "--webhook", "slack", "--secret", "--json")
    status, output, errors = await commands.run("triggers", *slack, given="of-slack-s")
    assert status == 0, errors
    assert "of-slack-s" not in output + errors


async def test_a_files_triggers_are_as_it_says(commands: Commands, tmp_path: Path) -> None:
    """Made, left, changed and removed by deploys; those of others are not touched."""
    folder = project(tmp_path / "orders", more=TRIGGERS + HOOK)
    status, _, errors = await commands.run("deploy", folder)
    assert status == 0, errors
    assert "made trigger every morning (cron 0 9 * * 1-5 Europe/Berlin), next 20" in errors
    assert "made trigger event:1 (event order.paid)\n" in errors
    (advice,) = re.findall(r"provider's secret: (cakework .*)", errors)
    words = shlex.split(advice)[1:]
    assert (await commands.run(*words, given="whsec_theirs"))[0] == 0, advice
    before = await listed(commands)
    assert {each["managedBy"] for each in before} == {"file"}
    mine = (await commands.ok("triggers", "add", "orders", "--every", "60")).strip()

    deployed = await commands.json("deploy", folder)
    assert deployed["triggers"] == {"made": [], "changed": [], "removed": []}
    assert [each["id"] for each in await listed(commands)] == [*(e["id"] for e in before), mine]

    await commands.ok("triggers", "pause", "every morning")
    changed = TRIGGERS.replace("0 9", "30 8").replace('timeZone = "Europe/Berlin"\n', "")
    project(folder, more=changed.replace("maxAttempts = 2", "maxAttempts = 3"))
    status, _, errors = await commands.run("deploy", folder)
    assert status == 0, errors
    assert "removed trigger stripe\n" in errors
    assert "changed config of trigger every morning (cron 30 8 * * 1-5)\n" in errors
    assert "changed retry of trigger event:1 (event order.paid)\n" in errors
    morning, event, other = await listed(commands)
    assert [morning["id"], event["id"]] == [each["id"] for each in before[:2]]
    assert (morning["enabled"], morning["config"]["timeZone"]) == (False, "UTC")
    assert (event["retry"]["maxAttempts"], other["id"]) == (3, mine)

    project(folder, more=changed + "enabled = true\n" + HOOK)
    _, _, errors = await commands.run("deploy", folder, "--no-promote")
    assert "its triggers are left as they are, as what is live is" in errors
    assert len(await listed(commands)) == 3
    project(folder)
    deployed = await commands.json("deploy", folder)
    assert len(deployed["triggers"]["removed"]) == 2
    assert [each["id"] for each in await listed(commands)] == [mine]


async def test_a_trigger_that_is_refused_leaves_the_code_live(
    commands: Commands, tmp_path: Path
) -> None:
    """It is told which, and the next deploy makes it; no secret comes with what was made."""
    nobody = "fn_01M84JAQ6RGNRXKE5TFB8SJJJE"
    wrong = f'{TRIGGERS}onFailure = {{ functionId = "{nobody}" }}\n'
    folder = project(tmp_path / "orders", more=wrong)
    status, output, errors = await commands.run("deploy", folder)
    assert (status, output) == (1, "")
    assert "The code is deployed, its trigger event:1 is not: --on-failure functionId" in errors
    assert (await commands.json("functions", "show", "orders"))["liveVersion"] == 1
    assert [each["name"] for each in await listed(commands)] == ["every morning"]
    project(folder, more=TRIGGERS + HOOK.replace("stripe", "standard"))
    deployed = await commands.json("deploy", folder)
    made = deployed["triggers"]["made"]
    assert [each["type"] for each in made] == ["event", "webhook"]
    assert "secret" not in made[1]


async def test_the_examples_of_the_page_work(commands: Commands, orders: Path) -> None:
    """Each line of docs/cli.md about triggers and events, in order."""
    blocks = re.findall(r"^```sh\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    tried = [line for line in lines if re.match("cakework (triggers|events) ", line)]
    assert len(tried) > 8
    for line in tried:
        await commands.ok(*shlex.split(line)[1:])


async def test_lists_are_as_wide_as_a_terminal(commands: Commands, orders: Path) -> None:
    """However long names are."""
    named = ("--name", "n" * 60)
    await commands.ok("triggers", "add", "orders", "--cron", "0 9 1,2,3,4,5,6,7,8 * 1-5", *named)
    table = (await commands.ok("triggers")).splitlines()
    assert table[0].split() == ["ID", "FUNCTION", "TRIGGER", "STATE"]
    assert all(len(line) <= 80 for line in table)
