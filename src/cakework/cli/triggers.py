"""``cakework triggers``: what makes invocations of functions."""

from typing import Annotated, Any, cast

from cyclopts import App, Parameter
from cyclopts.validators import Number

from cakework.cli.client import open_client
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.function_names import found, names
from cakework.cli.functions import User
from cakework.cli.invoke import given_event, show_end
from cakework.cli.output import Json, Output, shown_on_stderr
from cakework.cli.schedule_previews import preview
from cakework.cli.secrets import read_value
from cakework.cli.trigger_names import found_trigger
from cakework.cli.trigger_options import When, read_object
from cakework.cli.trigger_secrets import advice, is_providers, with_placeholder
from cakework.cli.trigger_texts import COLUMNS, described, moment, row, what
from cakework.cli.values import JsonText
from cakework_client import Trigger, TriggerSettings, TriggerType, WebhookConfig

Of = Annotated[str | None, Parameter(name="--function")]
ONCE = "the secret is shown this once"
DONE, NEVER = "done", "; it never comes round: its time has passed"

app = App(name="triggers", help="Have something make invocations of a function.")
app.command(preview)


@app.default
def triggers(
    *,
    function: Of = None,
    type_: Annotated[TriggerType | None, Parameter(name="--type")] = None,
    user: User = None,
    as_json: Json = False,
) -> int:
    """List triggers, newest first.

    Args:
        function: Only those of this function, by name or id.
        type_: Only those of this type.
        user: Only those for this end user.
    """
    with open_client() as client:
        function_id = found(client, function).id if function else None
        listed = list(client.iter_triggers(function_id=function_id, type=type_, user_id=user))
        called = names(client) if listed and not as_json else {}
    rows = [each.to_dict() if as_json else row(each, called) for each in listed]
    Output(as_json=as_json).table(rows, COLUMNS, empty="No triggers.")
    return ExitCode.OK


app.command(triggers, name="list")


@app.command
def show(name: str, /, *, function: Of = None, as_json: Json = False) -> int:
    """Show a trigger: what it waits for, what it made last, when it is due next.

    Args:
        name: Id of the trigger, or its name.
        function: The one of that name of this function.
    """
    with open_client() as client:
        trigger = found_trigger(client, name, function)
        called = {} if as_json else names(client)
    text = described(trigger, called.get(trigger.function_id))
    Output(as_json=as_json).result(trigger.to_dict(), text)
    return ExitCode.OK


@app.command
def add(
    function: str,
    /,
    *,
    when: When = When(),  # noqa: B008
    filter_: Annotated[JsonText, Parameter(name="--filter")] = None,
    name: str | None = None,
    external_id: str | None = None,
    retry: JsonText = None,
    on_failure: str | None = None,
    pause_after: Annotated[int | None, Parameter(validator=Number(gte=1))] = None,
    paused: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    user: User = None,
    as_json: Json = False,
) -> int:
    """Have something make invocations of a function; print the trigger's id.

    Of a webhook its URL is printed too, and its secret, this once, if one is made.

    Args:
        function: Name or id of the function.
        when: What it waits for.
        filter_: Pattern that its events have to match: JSON, @FILE, or - for standard input.
        name: What it is, for people.
        external_id: Your own id for it: made again with the same, it is the same trigger.
        retry: When what it makes is tried again, such as '{"maxAttempts": 3}'.
        on_failure: Function that is told of what failed for good, by name or id.
        pause_after: Pause it after so many in a row that failed for good.
        paused: Have it make nothing until it is resumed.
        user: End user for whom it is; whose the function is if absent.
    """
    kind, config = when.told()
    pattern, policy = read_object(filter_, "--filter"), read_object(retry, "--retry")
    if kind == "webhook":
        config = _with_secret(config) if when.secret else with_placeholder(config)
    with open_client() as client:
        of = found(client, function, user)
        handler = {"functionId": found(client, on_failure, user).id} if on_failure else None
        made = client.create_trigger(
            of.id,
            kind,
            cast("TriggerSettings", config),
            filter=pattern,
            name=name,
            user_id=user,
            external_id=external_id,
            enabled=False if paused else None,
            retry=cast("Any", policy),
            on_failure=cast("Any", handler),
            pause_after=pause_after,
        )
    output = Output(as_json=as_json)
    after = f"; next {moment(made.next[0])}" if made.next else NEVER * (made.paused_reason == DONE)
    output.progress(shown_on_stderr(f"{what(made)} invokes {of.name}{after}"))
    if made.secret:
        output.progress(ONCE)
    elif not when.secret and (said := advice(made)):
        output.progress(said)
    output.result(made.to_dict(), "\n".join(filter(None, (made.id, made.url, made.secret))))
    return ExitCode.OK


@app.command
def pause(name: str, /, *, function: Of = None, as_json: Json = False) -> int:
    """Have a trigger make nothing; what it made goes on.

    Args:
        name: Id of the trigger, or its name.
        function: The one of that name of this function.
    """
    return _enabled(name, function, Output(as_json=as_json), enabled=False)


@app.command
def resume(name: str, /, *, function: Of = None, as_json: Json = False) -> int:
    """Have a trigger go on from now, also one that paused by itself.

    Args:
        name: Id of the trigger, or its name.
        function: The one of that name of this function.
    """
    return _enabled(name, function, Output(as_json=as_json), enabled=True)


@app.command
def run(
    name: str,
    /,
    *,
    data: Annotated[JsonText, Parameter(alias="-d")] = None,
    event: JsonText = None,
    wait: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    function: Of = None,
    as_json: Json = False,
) -> int:
    """Have a trigger make an invocation now, paused or not, whatever its filter; print its id.

    Args:
        name: Id of the trigger, or its name.
        data: Data of its event: JSON, @FILE, or - for standard input.
        event: A whole event (CloudEvent), in the same ways.
        wait: Wait for its end, and print what it answers instead.
        function: The one of that name of this function.
    """
    output, given = Output(as_json=as_json), given_event(data, event)
    with open_client() as client:
        made = client.run_trigger(found_trigger(client, name, function).id, **given)
        if wait:
            return show_end(client, made, output)
    output.result(made.to_dict(), made.id)
    return ExitCode.OK


@app.command
def rotate(
    name: str,
    /,
    *,
    secret: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    url: Annotated[bool, Parameter(negative=(), show_default=False)] = False,
    function: Of = None,
    as_json: Json = False,
) -> int:
    """Give a webhook another secret, and print it, this once; the old one counts for 24 hours.

    Args:
        name: Id of the trigger, or its name.
        secret: Take the provider's secret instead: it is asked for, or read from standard input.
        url: Give it another URL, and print that; the old one leads nowhere. Its secret stays,
            without --secret.
        function: The one of that name of this function.
    """
    output = Output(as_json=as_json)
    given = read_value("the webhook's secret") if secret else not url
    with open_client() as client:
        trigger = found_trigger(client, name, function)
        _check_rotates(trigger, given)
        rotated = client.rotate_trigger_secret(trigger.id, secret=given, url=url)
    shown = [each for each in (rotated.url if url else None, rotated.secret) if each]
    if rotated.secret:
        output.progress(ONCE)
    output.result(rotated.to_dict(), "\n".join(shown) or f"{name} has the provider's secret.")
    return ExitCode.OK


@app.command
def remove(name: str, /, *, function: Of = None, as_json: Json = False) -> int:
    """Delete a trigger; what it made goes on.

    Args:
        name: Id of the trigger, or its name.
        function: The one of that name of this function.
    """
    with open_client() as client:
        trigger = found_trigger(client, name, function)
        client.delete_trigger(trigger.id)
    output = Output(as_json=as_json)
    if trigger.managed_by == "file":
        output.progress("its cakework.toml still has it: the next deploy makes it again")
    output.result(trigger.to_dict(), f"{name} is deleted.")
    return ExitCode.OK


def _with_secret(config: dict[str, Any]) -> dict[str, Any]:
    return {**config, "verify": {**config["verify"], "secret": read_value("the webhook's secret")}}


def _enabled(name: str, function: str | None, output: Output, *, enabled: bool) -> int:
    with open_client() as client:
        trigger = found_trigger(client, name, function)
        changed = client.update_trigger(trigger.id, enabled=enabled)
    after = f"; next {moment(changed.next[0])}" if enabled and changed.next else ""
    output.result(changed.to_dict(), f"{name} is {changed.state}{after}.")
    return ExitCode.OK


def _check_rotates(trigger: Trigger, secret: bool | str) -> None:
    if not isinstance(trigger.config, WebhookConfig):
        raise CommandFailed(
            f"{what(trigger)} has no secret and no URL: only a webhook has.", ExitCode.USAGE
        )
    verify = trigger.config.verify
    if secret is True and is_providers(verify.to_dict()):
        raise CommandFailed(
            f"The secret of a webhook of {verify.scheme} is made by the provider: give it with "
            "--secret.",
            ExitCode.USAGE,
        )
