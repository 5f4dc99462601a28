"""``cakework secrets``: what functions are given and nobody else sees."""

import sys
from getpass import getpass
from typing import Annotated

from cyclopts import App, Parameter

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_client import FunctionClient
from cakework.cli.function_names import found
from cakework.cli.functions import User
from cakework.cli.output import Json, Output

COLUMNS = {
    "name": "NAME",
    "fingerprint": "FINGERPRINT",
    "shared": "SHARED",
    "updatedAt": "UPDATED",
    "lastUsedAt": "LAST USED",
}

app = App(name="secrets", help="Set, list and delete secrets.")


@app.default
def secrets(*, function: str | None = None, user: User = None, as_json: Json = False) -> int:
    """List secrets, without their values: the account's, a function's, or an end user's.

    Args:
        function: Those of this function, by name or id.
        user: Those of this end user.
    """
    with open_client() as client:
        scope = _scope(client, function, user)
        listed = [each.to_dict() for each in client.list_secrets(**scope)]
    Output(as_json=as_json).table(listed, COLUMNS, empty="No secrets.")
    return ExitCode.OK


app.command(secrets, name="list")


@app.command(name="set")
def set_(
    name: str,
    /,
    *,
    function: str | None = None,
    user: User = None,
    shared: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    as_json: Json = False,
) -> int:
    """Set a secret. The value is asked for, or read from standard input to its end.

    One newline at the end does not count. Functions see it that name it in `secrets`.

    Args:
        name: Its name: upper-case letters, digits and _.
        function: For this function alone, by name or id.
        user: For the functions of this end user.
        shared: End users' functions may name it too; of the account's secrets.
    """
    value = read_value(name)
    with open_client() as client:
        scope = _scope(client, function, user)
        secret = client.put_secret(name, value, shared=shared or None, **scope)
    Output(as_json=as_json).result(secret.to_dict(), f"{name} is set.")
    return ExitCode.OK


@app.command
def delete(
    name: str,
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


def _scope(client: FunctionClient, function: str | None, user: str | None) -> dict[str, str | None]:
    if function is None:
        return {"function_id": None, "user_id": user}
    return {"function_id": found(client, function, user).id, "user_id": None}
