"""``cakework webhooks``: where the account's events are sent."""

from typing import Annotated, Literal

from cyclopts import App, Parameter

from cakework.cli.client import open_client
from cakework.cli.exits import ExitCode
from cakework.cli.output import Json, Output
from cakework.cli.values import Url

Event = Literal[
    "build.succeeded",
    "build.failed",
    "vm.started",
    "vm.stopped",
    "vm.destroyed",
    "function.deployed",
    "function.failed",
    "invocation.succeeded",
    "invocation.failed",
    "trigger.paused",
]
COLUMNS = {
    "id": "ID",
    "url": "URL",
    "events": "EVENTS",
    "enabled": "ENABLED",
    "createdAt": "CREATED",
}
DELIVERY_COLUMNS = {
    "id": "ID",
    "eventType": "EVENT",
    "status": "STATUS",
    "attempts": "ATTEMPTS",
    "responseStatus": "ANSWER",
    "error": "ERROR",
    "createdAt": "CREATED",
}

app = App(name="webhooks", help="Have events sent to URLs of yours.")


@app.command
def create(
    url: Url,
    /,
    *,
    event: Annotated[list[Event] | None, Parameter(negative=())] = None,
    description: str | None = None,
    as_json: Json = False,
) -> int:
    """Have events sent to a URL; prints the secret that they are signed with, this once.

    Args:
        url: https:// URL that events are posted to.
        event: Only this event; may be repeated. Without it all but invocation.succeeded.
        description: What it is for.
    """
    with open_client() as client:
        made = client.create_webhook(url, events=event, description=description)
    output = Output(as_json=as_json)
    output.progress(f"webhook {made.id}")
    output.result(made.to_dict(), made.secret)
    return ExitCode.OK


@app.command(name="list")
def list_(*, as_json: Json = False) -> int:
    """List webhooks."""
    with open_client() as client:
        found = [webhook.to_dict() for webhook in client.list_webhooks().webhooks]
    Output(as_json=as_json).table(found, COLUMNS, empty="No webhooks.")
    return ExitCode.OK


@app.command
def test(webhook_id: str, /, *, as_json: Json = False) -> int:
    """Send a test event; `deliveries` shows what became of it.

    Args:
        webhook_id: Id of the webhook.
    """
    with open_client() as client:
        sent = client.test_webhook(webhook_id)
    Output(as_json=as_json).result(sent.to_dict(), sent.id)
    return ExitCode.OK


@app.command
def rotate(webhook_id: str, /, *, as_json: Json = False) -> int:
    """Change the secret and print the new one, this once; the old one signs too for 24 hours.

    Args:
        webhook_id: Id of the webhook.
    """
    with open_client() as client:
        rotated = client.rotate_webhook_secret(webhook_id)
    Output(as_json=as_json).result(rotated.to_dict(), rotated.secret)
    return ExitCode.OK


@app.command
def delete(webhook_id: str, /, *, as_json: Json = False) -> int:
    """Remove a webhook and its delivery log.

    Args:
        webhook_id: Id of the webhook.
    """
    with open_client() as client:
        gone = client.delete_webhook(webhook_id)
    Output(as_json=as_json).result(gone.to_dict(), f"{webhook_id} is removed.")
    return ExitCode.OK


@app.command
def deliveries(
    webhook_id: str,
    /,
    *,
    status: Literal["pending", "succeeded", "failed"] | None = None,
    as_json: Json = False,
) -> int:
    """List the deliveries of a webhook, newest first.

    Args:
        webhook_id: Id of the webhook.
        status: Only those of this status.
    """
    with open_client() as client:
        log = client.iter_webhook_deliveries(webhook_id, status=status)
        found = [delivery.to_dict() for delivery in log]
    Output(as_json=as_json).table(found, DELIVERY_COLUMNS, empty="No deliveries.")
    return ExitCode.OK
