"""Greets: on requests to the function's URL, and in answer to events."""

from cakework_functions import Context, Event, Request


def http(request: Request) -> dict[str, str]:
    return greeting(request.query.get("name", "world"))


def handler(event: Event, context: Context) -> dict[str, str]:
    data = event.get("data") or {}
    context.log.info("attempt %d of %s", context.attempt, context.invocation_id)
    return greeting(data.get("name", "world"))


def greeting(name: str) -> dict[str, str]:
    return {"hello": name}
