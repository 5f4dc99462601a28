"""Greets whom an event names."""

import platform

STARTED = "before the snapshot"


def handler(event, context):
    name = event["data"]["name"]
    print(f"greeting {name}, imported {STARTED}")
    return {"message": f"Hello, {name}", "python": platform.python_version()}
