"""``cakework functions``, ``versions``, ``promote`` and ``rollback``."""

import sys
import textwrap
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_deploys import made
from cakework.cli.function_names import found
from cakework.cli.output import Json, Output, ago, facts, shown
from cakework_client import CakeworkClient, Function, Version

COLUMNS = {
    "name": "NAME",
    "state": "STATE",
    "liveVersion": "LIVE",
    "runtime": "RUNTIME",
    "userId": "USER",
    "age": "AGE",
}
VERSION_COLUMNS = {
    "version": "VERSION",
    "state": "STATE",
    "handlers": "HANDLES",
    "message": "MESSAGE",
    "age": "AGE",
    "error": "ERROR",
}
WIDTH = 60
"""Of settings that take several lines."""
User = Annotated[str | None, Parameter(name="--user")]
Number1 = Annotated[int, Parameter(validator=Number(gte=1))]

app = App(name="functions", help="List functions, show or delete one.")


@app.default
def functions(
    *,
    user: User = None,
    kind: Literal["function", "transform"] | None = None,
    as_json: Json = False,
) -> int:
    """List functions, newest first.

    Args:
        user: Only those of this end user.
        kind: Only those of this kind.
    """
    with open_client() as client:
        listed = [each.to_dict() for each in client.iter_functions(user_id=user, kind=kind)]
    output = Output(as_json=as_json)
    shown = listed if as_json else [each | {"age": ago(each["createdAt"])} for each in listed]
    output.table(shown, COLUMNS, empty="No functions.")
    return ExitCode.OK


app.command(functions, name="list")


@app.command
def show(name: str, /, *, user: User = None, as_json: Json = False) -> int:
    """Show a function with its settings.

    Args:
        name: Name or id of the function.
        user: End user whose it is.
    """
    with open_client() as client:
        function = found(client, name, user)
        newest = next(client.iter_versions(function.id), None)
    Output(as_json=as_json).result(function.to_dict(), _described(function, newest))
    return ExitCode.OK


@app.command
def delete(name: str, /, *, user: User = None, as_json: Json = False) -> int:
    """Delete a function with its versions. What waits for it is canceled; records stay.

    Args:
        name: Name or id of the function.
        user: End user whose it is.
    """
    with open_client() as client:
        function = found(client, name, user)
        client.delete_function(function.id)
    Output(as_json=as_json).result(function.to_dict(), f"{function.name} is deleted.")
    return ExitCode.OK


def versions(name: str, /, *, user: User = None, as_json: Json = False) -> int:
    """List the versions of a function, newest first; * is the live one.

    Args:
        name: Name or id of the function.
        user: End user whose it is.
    """
    with open_client() as client:
        function = found(client, name, user)
        listed = [each.to_dict() for each in client.iter_versions(function.id)]
    output = Output(as_json=as_json)
    if not as_json:
        listed = [_row(each, function.live_version) for each in listed]
    output.table(listed, VERSION_COLUMNS, empty=f"{function.name} has no versions.")
    return ExitCode.OK


def promote(name: str, version: Number1, /, *, user: User = None, as_json: Json = False) -> int:
    """Make a version live, newer or older.

    Args:
        name: Name or id of the function.
        version: Number of the version.
        user: End user whose it is.
    """
    with open_client() as client:
        return _promoted(client, found(client, name, user), version, Output(as_json=as_json))


def rollback(
    name: str, version: Number1 | None = None, /, *, user: User = None, as_json: Json = False
) -> int:
    """Make an older version live: the newest that is ready below the live one.

    Args:
        name: Name or id of the function.
        version: Number of the version; if absent, the newest below the live one that is ready.
        user: End user whose it is.
    """
    with open_client() as client:
        function = found(client, name, user)
        if version is None:
            version = _older(client, function)
        return _promoted(client, function, version, Output(as_json=as_json))


def _older(client: CakeworkClient, function: Function) -> int:
    live = function.live_version
    if live is None:
        raise CommandFailed(f"{function.name} has no live version.", code="no_live_version")
    for each in client.iter_versions(function.id):
        if each.version < live and each.state == "ready":
            return each.version
    raise CommandFailed(
        f"{function.name} has no version below {live} that is ready; `cakework versions "
        f"{function.name}` lists them.",
        code="conflict",
    )


def _promoted(client: CakeworkClient, function: Function, version: int, output: Output) -> int:
    before = function.live_version
    function = client.promote_version(function.id, version)
    if function.live_version != version:
        output.progress(f"version {version} is made again from its source")
        made(client, function, client.get_version(function.id, version), output)
        function = client.get_function(function.id)
    was = f" instead of {before}" if before not in (None, version) else ""
    output.result(function.to_dict(), f"{function.name}: version {version} is live{was}.")
    return ExitCode.OK


def _row(version: Mapping[str, Any], live: int | None) -> dict[str, Any]:
    number = version["version"]
    return {
        **version,
        "version": f"{number} *" if number == live else str(number),
        "handlers": " ".join(version.get("handlers") or ()),
        "age": ago(version["createdAt"]),
        "error": (version.get("error") or "").strip().rpartition("\n")[2],
    }


def _described(function: Function, newest: Version | None) -> str:
    live = f"version {function.live_version}" if function.live_version else "nothing"
    newer = newest and newest.version != function.live_version
    more = f"; version {newest.version} is {newest.state}" if newest and newer else ""
    settings = function.settings.to_dict()
    lines = {
        "id": function.id,
        "state": f"{function.state}: {live} is live{more}",
        "runtime": function.runtime,
        "kind": function.kind,
        "user": function.user_id,
        "url": function.url,
        "made": f"{function.created_at:%Y-%m-%d %H:%M:%S} UTC",
        **{name: _value(value) for name, value in settings.items()},
    }
    told = [function.name, *facts(lines).splitlines()]
    return "\n".join(shown(line, sys.stdout) for line in told)


def _value(value: object) -> str | None:
    if isinstance(value, dict):
        pairs = [f"{name}={_value(each)}" for name, each in value.items()]  # pyright: ignore
        return textwrap.fill(", ".join(pairs), WIDTH)
    if isinstance(value, list):
        several = any(isinstance(each, dict) for each in value)  # pyright: ignore
        told = [str(_value(each)) for each in value]  # pyright: ignore
        return "\n".join(told) if several else ", ".join(sorted(told))
    return str(value).lower() if isinstance(value, bool) else str(value)
