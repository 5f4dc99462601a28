"""``cakework keys``: API keys, straight on the store of this machine's server.

Root's calls go on as the server's user, so that no file of the store ends up root's.
"""

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Annotated, TypeVar

import anyio
from cyclopts import App, Parameter

from cakework.cli.configuration import environment, load_settings
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.folders import prepare_folders
from cakework.cli.output import Json, Output, iso
from cakework.cli.privileges import as_server_user
from cakework.domain.errors import CakeworkError
from cakework.domain.ids import KeyId
from cakework.settings import Settings

if TYPE_CHECKING:
    from cakework.server.services.keys import KeyInfo

Result = TypeVar("Result")

app = App(name="keys", help="Create, list and revoke API keys, on the server's machine.")

COLUMNS = {
    "id": "ID",
    "name": "NAME",
    "account": "ACCOUNT",
    "prefix": "KEY",
    "createdAt": "CREATED",
    "revokedAt": "REVOKED",
}


@app.command
def create(
    *,
    name: str = "cli",
    account: str = "default",
    if_none: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    as_json: Json = False,
) -> int:
    """Create a key and show it, this once.

    Args:
        name: What the key is for.
        account: Account it opens; made when it is not there.
        if_none: Do nothing when there is a valid key already.
    """
    from cakework.server.keys_admin import create_key, list_keys

    settings = settings_as_server_user()
    output = Output(as_json=as_json)
    if if_none and any(key.revoked_ms is None for key in call(list_keys, settings)):
        output.result(None, "There is a key already.")
        return ExitCode.OK
    created = call(partial(create_key, account=account, name=name), settings)
    output.result({"id": created.id, "key": created.key}, created.key)
    return ExitCode.OK


@app.command(name="list")
def list_(*, as_json: Json = False) -> int:
    """List keys. Keys themselves are not stored, only their first letters."""
    from cakework.server.keys_admin import list_keys

    keys = [describe(key) for key in call(list_keys, settings_as_server_user())]
    Output(as_json=as_json).table(keys, COLUMNS, empty="No keys.")
    return ExitCode.OK


@app.command
def revoke(key_id: str, /, *, as_json: Json = False) -> int:
    """Revoke a key: it opens nothing from now on.

    Args:
        key_id: Id of the key, as `cakework keys list` shows it.
    """
    from cakework.server.keys_admin import revoke_key

    call(lambda settings: revoke_key(settings, KeyId(key_id)), settings_as_server_user())
    Output(as_json=as_json).result({"id": key_id}, f"{key_id} is revoked.")
    return ExitCode.OK


def describe(key: "KeyInfo") -> dict[str, object]:
    """Return a key as it is listed."""
    return {
        "id": key.id,
        "name": key.name,
        "account": key.account,
        "prefix": key.prefix,
        "createdAt": iso(key.created_ms),
        "revokedAt": None if key.revoked_ms is None else iso(key.revoked_ms),
    }


def settings_as_server_user() -> Settings:
    """Return the settings. Root's process is replaced by one of the server's user."""
    settings = load_settings()
    if os.geteuid() != 0:
        return settings
    settings = settings.model_copy(update={"data_dir": settings.data_dir.absolute()})
    prepare_folders(settings)
    argv = as_server_user([sys.executable, "-m", "cakework.cli", *sys.argv[1:]], settings)
    os.chdir("/")
    return os.execvpe(argv[0], argv, environment(settings))  # noqa: S606


def call(function: Callable[[Settings], Awaitable[Result]], settings: Settings) -> Result:
    """Call a function of the server on the store.

    Raises:
        CommandFailed: The server refuses, or the store cannot be opened.
    """
    try:
        return anyio.run(function, settings)
    except CakeworkError as error:
        raise CommandFailed(error.detail, code=error.code) from error
    except OSError as error:
        raise CommandFailed(f"Cannot open the store: {error}. Use sudo?") from error
