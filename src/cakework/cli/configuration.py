"""Reads the settings for a command, and says what is wrong with them in a sentence."""

from typing import TYPE_CHECKING

from cakework.cli.exits import CommandFailed, ExitCode

if TYPE_CHECKING:
    from cakework.settings import Settings


def load_settings(**overrides: object) -> "Settings":
    """Return the settings, with ``overrides`` that are not None on top.

    Raises:
        CommandFailed: A setting is unknown or out of range, or the file cannot be read.
    """
    from pydantic import ValidationError

    from cakework.settings import Settings

    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        return Settings(**given)  # pyright: ignore[reportArgumentType]
    except ValidationError as error:
        faults = [f"  {'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors()]
        raise CommandFailed(
            "\n".join(["Settings are wrong (see docs/settings.md):", *faults]),
            ExitCode.USAGE,
            code="invalid_settings",
        ) from error
    except (OSError, ValueError) as error:
        raise CommandFailed(
            f"Cannot read the settings file: {error}. CAKEWORK_CONFIG names another.",
            ExitCode.USAGE,
            code="invalid_settings",
        ) from error
