"""The client of the server that the settings name, and what goes wrong with it as sentences."""

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cakework import __version__
from cakework.cli.configuration import load_settings
from cakework.cli.exits import CommandFailed, ExitCode
from cakework_client import (
    ApiError,
    BuildFailed,
    CakeworkClient,
    CakeworkError,
    ConnectionFailed,
    FieldError,
    FolderError,
    InvalidId,
    Unauthenticated,
)

if TYPE_CHECKING:
    from cakework.settings import Settings

NO_KEY = "Set CAKEWORK_API_KEY to a key made with `cakework keys create`."

NO_SERVER = "Start Cakework with `cakework up`, or set CAKEWORK_URL to where it is."

OPTIONS = {
    "at": "--at",
    "autoStart": "--auto-start",
    "batch": "--batch",
    "branch": "--branch",
    "config": "The trigger:",
    "count": "--count",
    "cpu": "--cpu",
    "cron": "--cron",
    "data": "--data",
    "delay": "--delay",
    "description": "--description",
    "dockerfile": "The Dockerfile",
    "dockerignore": "--dockerignore",
    "entry": "entry, of cakework.toml,",
    "envVars": "--env",
    "event": "--event",
    "eventId": "--event",
    "events": "--event",
    "every": "--every",
    "externalId": "--external-id",
    "from": "--from",
    "functionId": "--function",
    "idleTimeout": "--idle-timeout",
    "imageId": "The image",
    "imageUri": "The image",
    "kind": "--kind",
    "memory": "--memory",
    "message": "--message",
    "name": "--name",
    "onFailure": "--on-failure",
    "order": "--order",
    "password": "The password",
    "pauseAfter": "--pause-after",
    "perSecond": "--per-second",
    "port": "--port",
    "query": "--query",
    "reason": "--reason",
    "repository": "--github",
    "retry": "--retry",
    "runtime": "runtime, of cakework.toml,",
    "secret": "The secret",
    "settings": "cakework.toml:",
    "signature": "signature, of cakework.toml,",
    "snapshot": "--snapshot",
    "source": "The code:",
    "state": "--state",
    "status": "--status",
    "subject": "--subject",
    "timeZone": "--time-zone",
    "to": "--to",
    "token": "The token",
    "triggerId": "--trigger",
    "ttl": "--ttl",
    "type": "--type",
    "url": "The URL",
    "userId": "--user",
    "username": "--username",
    "version": "--version",
    "volumeGB": "--volume",
}
"""What commands call the API's fields."""


@contextmanager
def open_client() -> Generator[CakeworkClient]:
    """Give a client for the server that the settings name.

    Raises:
        CommandFailed: For whatever goes wrong with it.
    """
    settings = load_settings()
    if settings.api_key is None:
        raise CommandFailed(
            f"No API key. {NO_KEY}", ExitCode.UNAUTHENTICATED, code="unauthenticated"
        )
    key = settings.api_key.get_secret_value()
    agent = f"cakework-cli/{__version__}"
    try:
        client = CakeworkClient(url=server_url(settings), api_key=key, user_agent=agent)
    except ValueError as error:
        raise CommandFailed(f"It cannot be: {error}.", ExitCode.USAGE) from error
    try:
        with client:
            yield client
    except CakeworkError as error:
        raise failure_of(error) from error


def server_url(settings: "Settings") -> str:
    """Return ``url``; or, when only the port was set, this machine at that port."""
    if "url" in settings.model_fields_set or "port" not in settings.model_fields_set:
        return settings.url
    return f"http://127.0.0.1:{settings.port}"


def failure_of(error: CakeworkError) -> CommandFailed:
    """Return how a command ends with an error of the client's."""
    match error:
        case Unauthenticated():
            detail = f"{error.detail} {NO_KEY}"
            return CommandFailed(detail, ExitCode.UNAUTHENTICATED, problem=error.problem)
        case ApiError():
            return CommandFailed(described(error), problem=error.problem)
        case ConnectionFailed():
            detail = (
                f"{error} Start Cakework with `cakework up`, or set CAKEWORK_URL to where it is."
            )
            return CommandFailed(detail, ExitCode.UNREACHABLE, code="unreachable")
        case BuildFailed():
            why = error.build.error or "it says no more"
            return CommandFailed(f"The build failed: {why}", code="build_failed")
        case FolderError():
            return CommandFailed(str(error), ExitCode.USAGE, code="unusable_folder")
        case InvalidId():
            return CommandFailed(str(error), ExitCode.USAGE)
        case _:
            return CommandFailed(str(error))


def described(error: ApiError) -> str:
    """Return a refusal as text for a person: each fault of a field once, else its detail."""
    faults = [_told(each) for each in error.errors]
    return "\n  ".join(faults) or error.detail


def _told(fault: FieldError) -> str:
    """Return a fault as a sentence, by the name of the option that the value came with."""
    field, _, place = fault.field.partition(".")
    name = " ".join((OPTIONS[field], place)).rstrip() if field in OPTIONS else fault.field
    message = fault.message if fault.message.endswith(("?", ".")) else f"{fault.message}."
    if message[:1].isupper() or fault.field == "body":
        return message
    return f"{name} {message}"
