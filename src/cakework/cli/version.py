"""``cakework version``."""

from cakework import __version__
from cakework.cli.output import Json, Output


def version(*, as_json: Json = False) -> None:
    """Show the version of the command line."""
    Output(as_json=as_json).result({"version": __version__}, f"cakework {__version__}")
