"""``cakework webhooks``: where the account's events are sent."""

from typing import Annotated, Literal, cast
from urllib.parse import quote

from cyclopts import App, Parameter

from cakework.cli.client import Client, open_client
from cakework.cli.exits import ExitCode
from cakework.cli.output import Json, Output

Event = Literal["build.succeeded", "build.failed", "vm.started", "vm.stopped", "vm.destroyed"]
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
    url: str,
    /,
    *,
    event: Annotated[list[Event] | None, Parameter(negative=())] = None,
    description: str | None = None,
    as_json: Json = False,
) -> int:
    """Have events sent to a URL; prints the secret that they are signed with, this once.

    Args:
        url: https:// URL that events are posted to.
        event: Only this event; may be repeated.
        description: What it is for.
    """
    given = {"url": url, "events": event, "description": description}
    body = {name: value for name, value in given.items() if value is not None}
    made = open_client().call("POST", "/v1/webhooks", body=body)
    output = Output(as_json=as_json)
    output.progress(f"webhook {made['id']}")
    output.result(made, str(made["secret"]))
    return ExitCode.OK


@app.command(name="list")
def list_(*, as_json: Json = False) -> int:
    """List webhooks."""
    found = open_client().call("GET", "/v1/webhooks")["webhooks"]
    webhooks = cast("list[dict[str, object]]", found)
    Output(as_json=as_json).table(webhooks, COLUMNS, empty="No webhooks.")
    return ExitCode.OK


@app.command
def test(webhook_id: str, /, *, as_json: Json = False) -> int:
    """Send a test event; `deliveries` shows what became of it.

    Args:
        webhook_id: Id of the webhook.
    """
    sent = open_client().call("POST", f"{address(webhook_id)}/test")
    Output(as_json=as_json).result(sent, str(sent["id"]))
    return ExitCode.OK


@app.command
def rotate(webhook_id: str, /, *, as_json: Json = False) -> int:
    """Change the secret and print the new one, this once; the old one signs too for 24 hours.

    Args:
        webhook_id: Id of the webhook.
    """
    rotated = open_client().call("POST", f"{address(webhook_id)}/rotate")
    Output(as_json=as_json).result(rotated, str(rotated["secret"]))
    return ExitCode.OK


@app.command
def delete(webhook_id: str, /, *, as_json: Json = False) -> int:
    """Remove a webhook and its delivery log.

    Args:
        webhook_id: Id of the webhook.
    """
    gone = open_client().call("DELETE", address(webhook_id))
    Output(as_json=as_json).result(gone, f"{webhook_id} is removed.")
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
    params = {} if status is None else {"status": status}
    path = f"{address(webhook_id)}/deliveries"
    found = pages(open_client(), path, "deliveries", params)
    Output(as_json=as_json).table(found, DELIVERY_COLUMNS, empty="No deliveries.")
    return ExitCode.OK


def address(webhook_id: str) -> str:
    """Return the path of a webhook in the API."""
    return f"/v1/webhooks/{quote(webhook_id, safe='')}"


def pages(client: Client, path: str, name: str, params: dict[str, str]) -> list[dict[str, object]]:
    """Return a whole list of the API, page after page."""
    found: list[dict[str, object]] = []
    while True:
        page = client.call("GET", path, params=params)
        found += cast("list[dict[str, object]]", page[name])
        if not page.get("pagination"):
            return found
        params = {**params, "pagination": str(page["pagination"])}
