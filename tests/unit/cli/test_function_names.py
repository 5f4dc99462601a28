"""A function by its name: the account's own, or an end user's."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import pytest

from cakework.cli import functions
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_names import found
from cakework.cli.main import run
from cakework.domain.functions import FunctionSettings
from cakework_client import CakeworkClient, Function, NotFound, Version
from cakework_client.wire import read

TIME = "2026-11-30T12:00:00.000Z"
SETTINGS = FunctionSettings().model_dump(mode="json", by_alias=True, exclude_none=True)


def function(id_: str, name: str, user: str | None = None) -> Function:
    told = {"id": id_, "name": name, "runtime": "node24", "state": "active", "url": "http://a/"}
    told |= {"kind": "function", "createdAt": TIME, "updatedAt": TIME}
    return read(Function, {**told, "userId": user, "settings": SETTINGS})


def version_of(number: int, state: str) -> Version:
    told = {"functionId": "fn_1", "version": number, "state": state, "buildId": "b"}
    told |= {"runtime": "node24", "entry": "main.ts", "sourceDigest": "d"}
    told |= {"createdAt": TIME, "updatedAt": TIME}
    return read(Version, told)


ALL = [
    function("fn_1", "orders"),
    function("fn_2", "orders", "ada"),
    function("fn_3", "mail", "ada"),
    function("fn_4", "sync", "ada"),
    function("fn_5", "sync", "bob"),
]


class Client:
    """As a client of a server that has ``ALL``."""

    def iter_functions(
        self, *, name: str | None = None, user_id: str | None = None, kind: str | None = None
    ) -> Iterator[Function]:
        named = (each for each in ALL if name in (None, each.name))
        return (each for each in named if user_id in (None, each.user_id))

    def get_function(self, function_id: str) -> Function:
        return next(each for each in ALL if each.id == function_id)


@pytest.fixture
def client() -> CakeworkClient:
    return cast("CakeworkClient", Client())


class Old(Client):
    """Has versions 9, failed, and 7, of which the source alone is kept; 8 is live."""

    def __init__(self, ends: str) -> None:
        self.live, self.states = 8, iter(["building", "building", ends])

    def iter_versions(self, function_id: str) -> Iterator[Version]:
        for number, state in ((9, "failed"), (8, "ready"), (7, "ready")):
            yield version_of(number, state)

    def get_function(self, function_id: str) -> Function:
        return replace(ALL[0], live_version=self.live)

    def promote_version(self, function_id: str, version: int) -> Function:
        return self.get_function(function_id)

    def get_version(self, function_id: str, version: int) -> Version:
        state = next(self.states)
        self.live = version if state == "ready" else self.live
        return version_of(version, state)

    def get_build(self, build_id: str, **_: Any) -> Any:
        raise NotFound({"status": 404, "detail": "none"})


@pytest.mark.parametrize("ends", ["ready", "failed"])
def test_a_rollback_waits_until_the_old_version_is_made_again(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], ends: str
) -> None:
    """It says so, and that it is live when it is."""

    @contextmanager
    def opened() -> Generator[CakeworkClient]:
        yield cast("CakeworkClient", Old(ends))

    monkeypatch.setattr(functions, "open_client", opened)
    assert run(["rollback", "fn_1"]) == (0 if ends == "ready" else 1)
    said = "".join(capsys.readouterr())
    assert "version 7 is made again from its source" in said
    assert ("orders: version 7 is live instead of 8." in said) == (ends == "ready")
    assert ("Version 7 could not be made. Version 8 is live" in said) == (ends == "failed")


@pytest.mark.parametrize(
    ("name", "user", "id_"),
    [
        ("orders", None, "fn_1"),
        ("orders", "ada", "fn_2"),
        ("mail", None, "fn_3"),
        ("sync", "bob", "fn_5"),
        ("fn_4", None, "fn_4"),
    ],
)
def test_a_name_is_found(client: CakeworkClient, name: str, user: str | None, id_: str) -> None:
    """The account's own goes first; --user says whose; the one that there is needs no more."""
    assert found(client, name, user).id == id_


@pytest.mark.parametrize(
    ("name", "user", "said"),
    [
        ("sync", None, "Several users have a function sync: ada, bob."),
        ("order", None, "There is no function order. Did you mean orders?"),
        ("mail", "bob", "There is no function mail."),
        ("something-else", None, "There is no function something-else."),
    ],
)
def test_a_name_that_is_none_is_told(
    client: CakeworkClient, name: str, user: str | None, said: str
) -> None:
    """With what was meant, or what would tell them apart."""
    with pytest.raises(CommandFailed) as failure:
        found(client, name, user)
    assert failure.value.detail.startswith(said)
    several = said.startswith("Several")
    assert failure.value.exit_code == (ExitCode.USAGE if several else ExitCode.FAILED)
