"""``cakework secrets``: what functions are given and nobody else sees."""

import sys
from collections.abc import Mapping
from getpass import getpass
from typing import Any, TypedDict

from cyclopts import App

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_names import found, names
from cakework.cli.functions import User
from cakework.cli.output import Json, Output, ago
from cakework.cli.values import SecretName
from cakework_client import CakeworkClient

COLUMNS = {
    "name": "NAME",
    "whose": "WHOSE",
    "fingerprint": "FINGERPRINT",
    "set": "SET",
    "used": "USED",
}

app = App(name="secrets", help="Set, list and delete secrets.")


@app.default
def secrets(*, function: str | None = None, user: User = None, as_json: Json = False) -> int:
    """List secrets, without their values.

    Args:
        function: Only those of this function, by name or id.
        user: Only those of this end user.
    """
    with open_client() as client:
        scope = _scope(client, function, user)
        listed = [each.to_dict() for each in client.iter_secrets(**scope)]
        if not as_json:
            called = names(client) if any("functionId" in each for each in listed) else {}
            listed = [_row(each, called) for each in listed]
    Output(as_json=as_json).table(listed, COLUMNS, empty="No secrets.")
    return ExitCode.OK


app.command(secrets, name="list")


@app.command(name="set")
def set_(
    name: SecretName,
    /,
    *,
    function: str | None = None,
    user: User = None,
    shared: bool | None = None,
    as_json: Json = False,
) -> int:
    """Set a secret. The value is asked for, or read from standard input to its end.

    One newline at the end does not count. Functions see it that name it in `secrets`.

    Args:
        name: Its name: upper-case letters, digits and _.
        function: For this function alone, by name or id.
        user: For the functions of this end user.
        shared: Whether end users' functions may name it too; of the account's secrets. Not if
            it is new, else as it was.
    """
    value = read_value(name)
    with open_client() as client:
        scope = _scope(client, function, user)
        secret = client.put_secret(name, value, shared=shared, **scope)
    Output(as_json=as_json).result(secret.to_dict(), f"{name} is set.")
    return ExitCode.OK


@app.command
def delete(
    name: SecretName,
    /,
    *,
    function: str | None = None,
    user: User = None,
    as_json: Json = False,
) -> int:
    """Delete a secret.

    Args:
        name: Its name.
        function: The one of this function, by name or id.
        user: The one of this end user.
    """
    with open_client() as client:
        client.delete_secret(name, **_scope(client, function, user))
    Output(as_json=as_json).result({"name": name}, f"{name} is deleted.")
    return ExitCode.OK


def read_value(name: str) -> str:
    """Return a secret's value: typed in at a terminal, else all of standard input.

    Raises:
        CommandFailed: There is none.
    """
    if sys.stdin.isatty():
        value = getpass(f"Value of {name}: ")
    else:
        try:
            value = sys.stdin.buffer.read().decode()
        except UnicodeDecodeError as error:
            raise CommandFailed("The value is not UTF-8 text.", ExitCode.USAGE) from error
        value = value.removesuffix("\n").removesuffix("\r")
    if not value:
        raise CommandFailed(
            f"There is no value for {name}: it comes on standard input.", ExitCode.USAGE
        )
    return value


def _row(secret: Mapping[str, Any], called: Mapping[str, str]) -> dict[str, Any]:
    whose = "account, shared" if secret.get("shared") else "account"
    if "functionId" in secret:
        whose = f"function {called.get(secret['functionId'], secret['functionId'])}"
    elif "userId" in secret:
        whose = f"user {secret['userId']}"
    used = secret.get("lastUsedAt")
    return {
        **secret,
        "whose": whose,
        "set": f"{ago(secret['updatedAt'])} ago",
        "used": f"{ago(used)} ago" if used else None,
    }


class Scope(TypedDict, total=False):
    """Whose secrets, as the client takes it."""

    function_id: str
    user_id: str


def _scope(client: CakeworkClient, function: str | None, user: str | None) -> Scope:
    if function is not None:
        return Scope(function_id=found(client, function, user).id)
    return Scope() if user is None else Scope(user_id=user)
