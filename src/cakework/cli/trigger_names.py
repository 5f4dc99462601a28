"""Triggers as people name them: by id, or by name."""

import re

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_names import found
from cakework.domain.ids import TRIGGER_ID_PATTERN
from cakework.nearest import nearest
from cakework_client import CakeworkClient, Trigger


def found_trigger(
    client: CakeworkClient, name: str, function: str | None = None, user: str | None = None
) -> Trigger:
    """Return the trigger of an id or a name; ``function`` and ``user`` say whose it is.

    Raises:
        CommandFailed: There is none, or several have the name.
    """
    if re.fullmatch(TRIGGER_ID_PATTERN, name):
        return client.get_trigger(name)
    function_id = None if function is None else found(client, function, user).id
    there = list(client.iter_triggers(function_id=function_id))
    named = [each for each in there if each.name == name]
    if len(named) == 1:
        return named[0]
    if named:
        ids = ", ".join(each.id for each in named[:10])
        raise CommandFailed(
            f"Several triggers are named {name}: {ids}. Give an id, or --function.", ExitCode.USAGE
        )
    meant = nearest(name, {each.name for each in there if each.name})
    told = f" Did you mean {meant}?" if meant else " `cakework triggers` lists them."
    raise CommandFailed(f"There is no trigger {name}.{told}", code="not_found")
