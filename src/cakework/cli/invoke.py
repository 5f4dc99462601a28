"""``cakework invoke``: give a function something to do, and show what becomes of it."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any, TypedDict, cast

from cyclopts import Parameter
from cyclopts.validators import Number

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_logs import show_invocation_log
from cakework.cli.function_names import found
from cakework.cli.functions import User
from cakework.cli.output import Json, Output, shown_on_stderr
from cakework.cli.values import JsonText
from cakework_client import CakeworkClient, Invocation

FIRST_WAIT_S = 2.0
"""Until an invocation that goes on has its log followed."""
STDIN = "-"


def invoke(
    name: str,
    /,
    *,
    data: Annotated[JsonText, Parameter(alias="-d")] = None,
    event: JsonText = None,
    async_: Annotated[bool, Parameter(name="--async", negative=(), show_default=False)] = False,
    wait: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    delay: Annotated[float | None, Parameter(validator=Number(gte=0))] = None,
    ttl: Annotated[float | None, Parameter(validator=Number(gt=0))] = None,
    version: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    user: User = None,
    as_json: Json = False,
) -> int:
    """Invoke a function; print what it answers, and what it logs on standard error.

    Ends with 1 if the handler failed. Ctrl-C leaves the invocation as it is.

    Args:
        name: Name or id of the function.
        data: Data of the event: JSON, @FILE with JSON, or - for standard input.
        event: A whole event (CloudEvent), in the same ways.
        async_: Only hand it over, to be tried again if it fails; print its id.
        wait: With --async, wait for the end of all its attempts.
        delay: With --async, seconds until it may start.
        ttl: Seconds after which it must not start any more.
        version: A version that is not live.
        user: End user for whom it is; a function of theirs goes before one of the account's.
    """
    if not async_ and (wait or delay is not None):
        raise CommandFailed("--wait and --delay go with --async.", ExitCode.USAGE)
    output = Output(as_json=as_json)
    given = given_event(data, event)
    with open_client() as client:
        function_id = owned_first(client, name, user)
        try:
            taken = client.invoke_function(
                function_id,
                mode="async" if async_ else "sync",
                **given,
                user_id=user,
                version=version,
                delay=delay,
                ttl=ttl,
                wait=None if async_ else FIRST_WAIT_S,
            )
        except KeyboardInterrupt:
            listed = f"cakework invocations --function {function_id}"
            output.progress(f"what was handed over goes on: {listed}")
            raise
        if async_ and not wait:
            output.result(taken.to_dict(), taken.id)
            return ExitCode.OK
        try:
            return show_end(client, taken, output)
        except KeyboardInterrupt:
            output.progress(f"{taken.id} goes on: cakework invocations show {taken.id}")
            raise


class Given(TypedDict, total=False):
    """What a function is given, as the client takes it."""

    data: Any
    event: dict[str, Any]


def given_event(data: str | None, event: str | None) -> Given:
    """Return what ``--data`` or ``--event`` gives.

    Raises:
        CommandFailed: Both do, or it cannot be.
    """
    if data is not None and event is not None:
        raise CommandFailed("Give --data or --event, not both.", ExitCode.USAGE)
    if data is not None:
        return Given(data=read_json(data, "--data"))
    if event is None:
        return Given()
    found = read_json(event, "--event")
    if not isinstance(found, dict):
        raise CommandFailed("--event is no JSON object, as an event is.", ExitCode.USAGE)
    return Given(event=cast("dict[str, Any]", found))


def owned_first(client: CakeworkClient, name: str, user: str | None) -> str:
    """Return the id of a function: one of the end user's, else one of the account's own."""
    if user is not None:
        theirs = next(client.iter_functions(name=name, user_id=user), None)
        if theirs is not None:
            return theirs.id
    return found(client, name).id


def show_end(client: CakeworkClient, invocation: Invocation, output: Output) -> int:
    """Show the log of an invocation until it has ended, then its result.

    Raises:
        CommandFailed: It did not succeed.
    """
    if not invocation.ended:
        output.progress(f"{invocation.id} is {invocation.state}")
    logged = show_invocation_log(client, invocation.id, output)
    if not invocation.ended:
        invocation = client.wait_for_invocation(invocation.id)
    if output.as_json:
        output.result(invocation.to_dict(), "")
    if invocation.state == "succeeded":
        if not output.as_json:
            print_result(client, invocation, output)
        return ExitCode.OK
    raise failure_of(invocation, logged)


def print_result(client: CakeworkClient, invocation: Invocation, output: Output) -> None:
    """Print what a handler answered: JSON in a line, or bytes as they are."""
    if invocation.result is not None:
        output.line(json.dumps(invocation.result, ensure_ascii=False))
        return
    result = client.get_invocation_result(invocation.id)
    if result.content_type.partition(";")[0] == "application/json":
        output.line(result.content.decode())
    elif sys.stdout.isatty():
        size = f"{len(result.content)} bytes of {result.content_type}"
        output.progress(f"{size}; send them to a file with >")
    else:
        sys.stdout.buffer.write(result.content)
        sys.stdout.buffer.flush()


def failure_of(invocation: Invocation, logged: str = "") -> CommandFailed:
    """Return how a command ends with an invocation that did not succeed. A traceback that is in
    what was ``logged``, and shown, is not shown again."""
    code = invocation.reason or invocation.state
    error = invocation.error
    if error:
        detail = f"{error.type}: {error.message}"
        # Python's has the error at its end, JavaScript's at its beginning.
        stack = (error.stack or "").strip()
        stack = "" if stack in logged else stack.removesuffix(detail).removeprefix(detail)
    else:
        detail, stack = f"The invocation {invocation.state}: {code}.", ""
    tries = f" after {invocation.attempt} attempts" if invocation.attempt > 1 else ""
    said = [shown_on_stderr(line) for line in detail.splitlines()]
    said += [f"  {shown_on_stderr(line)}" for line in stack.splitlines() if line]
    said.append(f"{invocation.id} {invocation.state}: {code}{tries}.")
    told = error.to_dict() if error else {}
    problem = {"code": code, "detail": detail, **told, "invocationId": invocation.id}
    return CommandFailed("\n".join(said), code=code, problem=problem)


def read_json(given: str, option: str) -> Any:
    """Return the JSON that an option gives: as it is, in a file, or on standard input.

    Raises:
        CommandFailed: It cannot be read, or is none.
    """
    try:
        if given == STDIN:
            text = sys.stdin.read()
        elif given.startswith("@"):
            text = Path(given[1:]).read_text(encoding="utf-8")
        else:
            text = given
    except (OSError, UnicodeDecodeError) as error:
        raise CommandFailed(f"Cannot read {given}: {error}", ExitCode.USAGE) from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise CommandFailed(
            f"{option} is no JSON ({error}). A text has to be in quotes: '\"text\"'.",
            ExitCode.USAGE,
        ) from error
