"""Values that are known to be wrong end a command with 2 before anybody is asked, and what the
server refuses is told once, in the command's own words."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from cakework.cli.client import OPTIONS, described
from cakework.cli.main import COMMANDS, app, run
from cakework_client import InvalidRequest

ROOT = Path(__file__).resolve().parents[3]
DOCUMENT: dict[str, Any] = json.loads((ROOT / "docs" / "openapi.json").read_text())
HELPED = {
    *("diskSize", "hooks", "keep", "pagination", "follow", "enabled", "files"),
    *("filter", "ids", "mode", "promote", "wait"),
    *("managedBy",),
    *("archive", "handlerFile", "handlerFunction", "lock", "platform", "shared", "value"),
}
"""Fields that no option gives, or that are no value: nothing can be wrong with them."""
WRONG = [
    ["run", "i", "--cpu", "9"],
    ["run", "i", "--cpu", "two"],
    ["run", "i", "--memory", "255"],
    ["run", "i", "--port", "65536"],
    ["run", "i", "-p", "0"],
    ["run", "i", "--volume", "501"],
    ["run", "i", "--env", "=x"],
    ["cache", "i", "--memory", "16385"],
    ["cache", "i", "--port", "80", "--idle-timeout", "0"],
    ["cache", "i", "--idle-timeout", "5"],
    ["cache", "i", "--auto-start"],
    ["cache", "i", "--snapshot", "ready", "--volume", "1"],
    ["cache", "i", "--snapshot", "later"],
    ["fork", "v", "--count", "101"],
    ["deploy", "--cpu", "0"],
    ["deploy", "--wait", "0"],
    ["logs", "v", "--from", "yesterday"],
    ["logs", "v", "--to", "2023-02-30"],
    ["logs", "v", "--order", "random"],
    ["vms", "--status", "running"],
    ["builds", "--status", "running"],
    ["import", "Not/A/Name"],
    ["build", "--github", "name"],
    ["build", "--github", "a/b", "--branch", "a..b"],
    ["webhooks", "create", "example.com"],
    ["webhooks", "create", "https://example.com", "--event", "vm.paused"],
]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is not there: who asks it ends with 3."""
    for name in [name for name in os.environ if name.startswith("CAKEWORK_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("CAKEWORK_CONFIG", os.devnull)
    monkeypatch.setenv("CAKEWORK_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("CAKEWORK_API_KEY", "cw_x")
    monkeypatch.setattr("cakework_client.calls.PAUSE_S", 0.001)


def code_of(arguments: list[str]) -> int:
    try:
        return run(arguments)
    except SystemExit as end:
        return int(end.code or 0)


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_a_value_that_cannot_be_ends_with_2(arguments: list[str], nobody: None) -> None:
    """Each option's, before anything is asked."""
    assert code_of(arguments) == 2


def test_values_at_their_bounds_are_taken(nobody: None) -> None:
    """They come as far as the server, which is not there."""
    shape = ["--cpu=8", "--memory=16384", "-p=65535", "--volume=500"]
    for arguments in (
        ["run", "i", *shape],
        ["cache", "i", *shape, "--auto-start", "--idle-timeout=86400"],
        ["fork", "v", "--count=100"],
        ["logs", "v", "--from=2023-07-19T13:32:56+0000", "--to=2023-07-20"],
        ["import", "registry.example/a:1"],
        ["webhooks", "create", "https://example.com", "--event=vm.stopped"],
    ):
        assert code_of(arguments) == 3, arguments


def refusal(*faults: tuple[str, str], detail: str = "It says so.") -> InvalidRequest:
    errors = [{"field": field, "message": message} for field, message in faults]
    problem = {"status": 400, "code": "invalid_request", "detail": detail, "errors": errors}
    return InvalidRequest(problem, retry_after_s=None)


def test_a_fault_is_told_once_by_the_options_name() -> None:
    """Whatever sentence the server made of its own names."""
    memory = ("memory", "should be less than or equal to 4096")
    assert described(refusal(memory)) == "--memory should be less than or equal to 4096."
    two = described(refusal(memory, ("envVars.A", "should be a valid string")))
    assert two.splitlines()[1] == "  --env A should be a valid string."
    url = "The URL leads to an address that is not a public one (CAKEWORK_WEBHOOK_ALLOW)"
    assert described(refusal(("url", url), detail=f"{url}.")) == f"{url}."
    unknown = ("files.0.mode", "is unknown; did you mean name?")
    assert described(refusal(unknown)) == "files.0.mode is unknown; did you mean name?"
    assert described(refusal()) == "It says so."


def test_every_field_that_can_be_wrong_has_an_option() -> None:
    """Of the API's calls; and every option that is named is one of a command's."""
    schemas = DOCUMENT["components"]["schemas"]
    operations = [each for path in DOCUMENT["paths"].values() for each in path.values()]
    fields = {
        parameter["name"]
        for operation in operations
        for parameter in operation.get("parameters", ())
        if parameter["in"] == "query"
    }
    for operation in operations:
        for media in operation.get("requestBody", {}).get("content", {}).values():
            for name in re.findall("schemas/(\\w+)", json.dumps(media["schema"])):
                fields |= schemas[name]["properties"].keys()
    assert fields - HELPED == OPTIONS.keys()
    options = {name for command in COMMANDS for name in names_of(app[command])}
    assert {name for name in OPTIONS.values() if name.startswith("-")} <= options


def names_of(command: Any) -> set[str]:
    """Return the options of a command and of those below it."""
    found: set[str] = set()
    for below in command:
        if not below.startswith("-"):
            found |= names_of(command[below])
    if command.default_command is not None:
        arguments = command.assemble_argument_collection()
        found |= {name for argument in arguments for name in argument.names}
    return {name for name in found if re.match("--", name)}
