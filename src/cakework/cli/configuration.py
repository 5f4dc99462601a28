"""Reads the settings for a command, says what is wrong with them, and hands them on."""

import os
from pathlib import Path
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

    config = os.environ.get("CAKEWORK_CONFIG")
    if config is not None and not Path(config).exists():
        raise CommandFailed(f"CAKEWORK_CONFIG names {config}, which is not there.", ExitCode.USAGE)
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


def environment(settings: "Settings") -> dict[str, str]:
    """Return the environment of all parts: this one, with what was given as options."""
    chosen = {
        "CAKEWORK_DATA_DIR": str(settings.data_dir),
        "CAKEWORK_HOST": settings.host,
        "CAKEWORK_PORT": str(settings.port),
        "CAKEWORK_PROXY_PORT": str(settings.proxy_port),
    }
    if config := os.environ.get("CAKEWORK_CONFIG"):
        chosen["CAKEWORK_CONFIG"] = str(Path(config).absolute())
    return {**os.environ, **chosen}
