"""Where the values of secrets come from: never from what others can read."""

import io
import json
import sys
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest

from cakework.cli import secrets
from cakework.cli.exits import CommandFailed
from cakework.cli.main import run
from cakework.domain.functions import FunctionSettings
from cakework_client import CakeworkClient
from cakework_client.wire import read

TIME = "2026-11-30T12:00:00.000Z"
SECRET = {"name": "KEY", "updatedAt": TIME, "fingerprint": "f1", "shared": False}
FUNCTION = {
    "id": "fn_1",
    "name": "orders",
    "runtime": "node24",
    "state": "active",
    "url": "http://a/",
    "kind": "function",
    "settings": FunctionSettings().model_dump(mode="json", by_alias=True, exclude_none=True),
    "createdAt": TIME,
    "updatedAt": TIME,
}


class Stdin(io.TextIOWrapper):
    """Standard input that holds something, or is a terminal."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content))
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any]]:
    """What is asked of a server that has one function and one secret."""
    asked: list[tuple[str, Any]] = []

    def call(
        _client: CakeworkClient, kind: Any, method: str, path: str, _options: Any, **more: Any
    ) -> Any:
        asked.append((f"{method} {path}", more))
        found = {"functions": [FUNCTION], "secrets": [SECRET, {**SECRET, "functionId": "fn_1"}]}
        return read(kind, {**SECRET, **found})

    @contextmanager
    def opened() -> Generator[CakeworkClient]:
        yield CakeworkClient(url="http://127.0.0.1:9", api_key="cw_x")

    monkeypatch.setattr(CakeworkClient, "_call", call)
    monkeypatch.setattr(secrets, "open_client", opened)
    return asked


@pytest.mark.parametrize(
    ("content", "value"),
    [(b"s3cret", "s3cret"), (b"s3cret\n", "s3cret"), (b"a\r\nb\r\n", "a\r\nb"), (b"a\n\n", "a\n")],
)
def test_a_value_comes_on_standard_input(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any], content: bytes, value: str
) -> None:
    """To its end; the newline that `echo` adds does not count."""
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    assert run(["secrets", "set", "KEY"]) == 0
    assert asked == [("PUT /v1/secrets/KEY", {"params": {}, "body": {"value": value}})]


def test_a_value_is_asked_for_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """And printed by nothing."""
    prompts: list[str] = []

    def typed(prompt: str) -> str:
        prompts.append(prompt)
        return "s3cret"

    monkeypatch.setattr(sys, "stdin", Stdin(terminal=True))
    monkeypatch.setattr(secrets, "getpass", typed)
    assert run(["secrets", "set", "KEY", "--function", "orders", "--no-shared"]) == 0
    assert prompts == ["Value of KEY: "]
    assert asked[-1][1] == {
        "params": {"functionId": "fn_1"},
        "body": {"value": "s3cret", "shared": False},
    }
    assert "s3cret" not in "".join(capsys.readouterr())


def test_no_option_takes_a_value(asked: list[Any]) -> None:
    """Others can read a command line."""
    for words in (["KEY", "s3cret"], ["KEY", "--value", "s3cret"], ["KEY=s3cret"]):
        with pytest.raises(SystemExit) as end:
            run(["secrets", "set", *words])
        assert end.value.code == 2
    assert asked == []


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff"])
def test_no_value_is_refused(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    """Nothing is set to nothing by a pipe that broke."""
    monkeypatch.setattr(sys, "stdin", Stdin(content))
    with pytest.raises(CommandFailed):
        secrets.read_value("KEY")


def test_secrets_are_listed_by_whose_they_are(
    asked: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """For people with the function's name, for programs as the API has them."""
    assert run(["secrets", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [each.get("functionId") for each in listed] == [None, "fn_1"]
    assert run(["secrets", "list"]) == 0
    rows = [line.split("  ") for line in capsys.readouterr().out.splitlines()]
    assert [row[1].strip() for row in rows[1:]] == ["account", "function orders"]
