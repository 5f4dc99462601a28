"""Functions as people name them: by name, or by id."""

from cakework.cli.exits import CommandFailed, ExitCode
from cakework.nearest import nearest
from cakework_client import CakeworkClient, Function, NotFound

ID_START = "fn_"
"""No name has such a sign in it."""
LISTED = "`cakework functions list` shows them."


def found(client: CakeworkClient, name: str, user: str | None = None) -> Function:
    """Return the function of a name or an id.

    A name is the account's own function of it before an end user's; ``user`` says whose it is.

    Raises:
        CommandFailed: There is none, or several users have one.
    """
    if name.startswith(ID_START):
        try:
            return client.get_function(name)
        except NotFound as error:
            raise CommandFailed(f"{error.detail} {LISTED}", problem=error.problem) from error
    named = list(client.iter_functions(name=name, user_id=user))
    own = [each for each in named if each.user_id == user] or named
    if len(own) == 1:
        return own[0]
    if own:
        users = ", ".join(sorted(each.user_id or "" for each in own)[:10])
        raise CommandFailed(
            f"Several users have a function {name}: {users}. Name one with --user, or give an id.",
            ExitCode.USAGE,
        )
    meant = nearest(name, {each.name for each in client.iter_functions(user_id=user)})
    raise CommandFailed(
        f"There is no function {name}. {f'Did you mean {meant}?' if meant else LISTED}",
        code="not_found",
    )


def names(client: CakeworkClient) -> dict[str, str]:
    """Return the names of all functions, by their ids."""
    return {each.id: each.name for each in client.iter_functions()}
