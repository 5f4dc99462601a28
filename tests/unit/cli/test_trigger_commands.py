"""What commands for triggers say and ask for, without a server."""

import io
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from cakework.cli import function_names, secrets, triggers
from cakework.cli.exits import CommandFailed
from cakework.cli.main import run
from cakework.cli.trigger_names import found_trigger
from cakework.cli.trigger_secrets import is_providers, with_placeholder
from cakework.cli.trigger_texts import described, row, what
from cakework.domain.signatures import Verify, check_secret
from cakework_client import CakeworkClient, Trigger
from cakework_client.wire import read

AT = "2026-11-30T12:00:00.000Z"
ID = "trg_01M84JAQ6RGNRXKE5TFB8SJJJE"
HOOK = {"verify": {"scheme": "stripe", "tolerance": 300}, "respond": "accepted", "dedupe": True}
FUNCTION: dict[str, Any] = {
    "id": "fn_1",
    "name": "orders",
    "runtime": "node24",
    "state": "active",
    "url": "http://a/",
    "kind": "function",
    "settings": {},
    "createdAt": AT,
    "updatedAt": AT,
}


def trigger(kind: str, config: Any, **more: Any) -> Trigger:
    return read(
        Trigger,
        {
            "id": ID,
            "functionId": "fn_1",
            "type": kind,
            "managedBy": "api",
            "enabled": True,
            "state": "active",
            "config": config,
            "consecutiveFailures": 0,
            "createdAt": AT,
            "updatedAt": AT,
            **more,
        },
    )


@pytest.mark.parametrize(
    ("kind", "config", "told"),
    [
        ("cron", {"cron": "0 9 * * *"}, "cron 0 9 * * *"),
        ("cron", {"cron": "0 9 * * *", "timeZone": "Asia/Tokyo"}, "cron 0 9 * * * Asia/Tokyo"),
        ("cron", {"every": 60}, "cron every 60 s"),
        ("cron", {"at": AT}, f"cron at {AT}"),
        ("event", {"types": ["a", "b.*"]}, "event a, b.*"),
        ("lifecycle", {"types": ["cakework.*"]}, "lifecycle cakework.*"),
        ("webhook", HOOK, "webhook stripe"),
        ("queue", {"url": "later"}, "queue"),
    ],
)
def test_a_trigger_in_a_few_words(kind: str, config: Any, told: str) -> None:
    """By what it waits for; of a type that is new its name. A list is no wider than a terminal."""
    found = trigger(kind, config)
    assert what(found) == told
    named = row(read(Trigger, {**found.to_dict(), "name": "n" * 99}), {"fn_1": "f" * 63})
    assert sum(map(len, named.values())) + 2 * 3 <= 80


def test_all_that_is_known_is_shown() -> None:
    """And nothing in it steers a terminal."""
    found = trigger(
        *("webhook", HOOK),
        name="a\nb",
        state="paused",
        pausedReason="10 invocations in a row failed for good.",
        filter={"data": ["x"]},
        url="http://a/in/b",
        refused={"count": 2, "why": "the signature does not match", "lastAt": AT},
        lastFiredAt=AT,
        lastResult="failed",
        consecutiveFailures=10,
        next=[AT],
    )
    told = described(found, "orders").splitlines()
    lines = dict(line.strip().split("  ", 1) for line in told[1:] if "  " in line.strip())
    assert lines["function"].strip() == "orders (fn_1)"
    assert lines["state"].strip() == "paused: 10 invocations in a row failed for good."
    assert lines["last"].strip() == "2026-11-30 12:00:00 UTC: failed"
    assert lines["failures"].strip() == "10 in a row"
    assert lines["why"].strip() == "the signature does not match"
    assert lines["filter"].strip() == '{"data": ["x"]}'


def test_what_deploy_calls_a_trigger_is_not_shown() -> None:
    """It says nothing to people; their own id does."""
    for who, seen in (("file", False), ("api", True)):
        found = trigger("cron", {"every": 60}, managedBy=who, externalId="file:name:267eb4")
        assert ("file:name:267eb4" in described(found, None)) is seen


def test_what_a_later_server_has_is_shown() -> None:
    """As it is told."""
    found = trigger("queue", {"url": "http://a/", "at": {"once": 3}})
    assert '{"once": 3}' in described(found, None)
    assert "http://a/" in described(found, None)


def test_what_the_provider_makes_begins_with_what_nobody_knows() -> None:
    """Such that the server takes it; what is made here is left to it."""
    for scheme in ("stripe", "slack", "shopify", "basic"):
        verify = with_placeholder({"verify": {"scheme": scheme}})["verify"]
        check_secret(Verify(scheme=scheme), verify["secret"])
        other = with_placeholder({"verify": {"scheme": scheme}})["verify"]
        assert verify["secret"] != other["secret"]
    for scheme in ("standard", "github", "hmac", "header", "none"):
        assert not is_providers({"scheme": scheme})
        assert with_placeholder({"verify": {"scheme": scheme}}) == {"verify": {"scheme": scheme}}


class Asked:
    """A server that has one function, and triggers."""

    def __init__(self, *there: Trigger) -> None:
        self.there = there
        self.asked: list[tuple[str, Any]] = []

    def call(
        self, _client: Any, kind: Any, method: str, path: str, _options: Any, **more: Any
    ) -> Any:
        self.asked.append((f"{method} {path}", more.get("body")))
        return read(
            kind,
            {
                **trigger("webhook", HOOK, secret=None, url="http://a/in/b").to_dict(),
                "functions": [FUNCTION],
                "triggers": [each.to_dict() for each in self.there],
            },
        )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Asked:
    """What is asked of the server."""
    asked = Asked(
        trigger("webhook", HOOK, name="one"),
        trigger("cron", {"every": 60}, name="two"),
        trigger("cron", {"every": 61}, name="two"),
    )

    @contextmanager
    def opened() -> Generator[CakeworkClient]:
        yield CakeworkClient(url="http://127.0.0.1:9", api_key="cw_x")

    def call(client: Any, *words: Any, **more: Any) -> Any:
        return asked.call(client, *words, **more)

    def found(*_: Any) -> Any:
        return type("Found", (), {"id": "fn_1", "name": "orders", "user_id": None})()

    monkeypatch.setattr(CakeworkClient, "_call", call)
    monkeypatch.setattr(triggers, "open_client", opened)
    monkeypatch.setattr(triggers, "found", found)
    monkeypatch.setattr(function_names, "found", found)
    return asked


class Terminal(io.StringIO):
    """Standard input where somebody types."""

    def isatty(self) -> bool:
        return True


def test_a_secret_is_asked_for_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, asked: Asked, capsys: pytest.CaptureFixture[str]
) -> None:
    """And printed by nothing; no option takes it."""
    monkeypatch.setattr(sys, "stdin", Terminal())
    monkeypatch.setattr(secrets, "getpass", lambda _prompt: "whsec_theirs")  # pyright: ignore
    assert run(["triggers", "add", "orders", "--webhook", "stripe", "--secret"]) == 0
    assert asked.asked[-1][1]["config"] == {
        "verify": {"scheme": "stripe", "secret": "whsec_theirs"}
    }
    assert run(["triggers", "rotate", ID, "--secret", "--url"]) == 0
    assert asked.asked[-1][1] == {"secret": "whsec_theirs", "url": True}
    assert "whsec_theirs" not in "".join(capsys.readouterr())


def test_a_url_is_changed_without_the_secret(asked: Asked) -> None:
    """Unless that is asked for."""
    assert run(["triggers", "rotate", ID, "--url"]) == 0
    assert asked.asked[-1] == (f"POST /v1/triggers/{ID}/rotate", {"secret": False, "url": True})


def test_triggers_are_found_by_name(asked: Asked) -> None:
    """If one has it; an id is asked for itself."""
    client = CakeworkClient(url="http://127.0.0.1:9", api_key="cw_x")
    assert found_trigger(client, "one").name == "one"
    assert found_trigger(client, ID).id == ID
    assert asked.asked[-1][0] == f"GET /v1/triggers/{ID}"
    with pytest.raises(CommandFailed, match=r"Several triggers are named two: .*--function"):
        found_trigger(client, "two")
    with pytest.raises(CommandFailed, match=r"There is no trigger onne\. Did you mean one"):
        found_trigger(client, "onne")
    with pytest.raises(CommandFailed, match="`cakework triggers` lists them"):
        found_trigger(client, "zzz")
