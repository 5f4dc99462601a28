"""A function's own URL, in a real VM."""

import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.acceptance.api import TIMEOUT_S, Api, Json
from tests.acceptance.functions import made
from tests.acceptance.waiting import until

CODE = """\
import os
calls = 0
def http(request):
    global calls
    calls += 1
    if request.path == "/raise":
        raise ValueError("mine to know")
    if request.path == "/exit":
        os._exit(3)
    if request.path == "/eat":
        kept = []
        while True:
            kept.append(b"x" * (1 << 20))
    if request.path == "/echo":
        return request.chunks()
    return {"calls": calls, "path": request.path}
"""


@pytest.fixture(scope="module")
def function(api: Api, platform: Any) -> Iterator[Json]:
    """A function that is live."""
    function_id = made(api, f"url-{time.time_ns()}", CODE)
    path = f"/v1/functions/{function_id}"
    yield api.get(path)
    api.http.delete(path)


def visit(
    api: Api, function: Json, path: str, method: str = "GET", content: bytes | None = None
) -> httpx2.Response:
    host = function["url"].split("//")[1].split(":")[0].rstrip("/")
    return httpx2.request(
        method, f"{api.router}{path}", headers={"Host": host}, content=content, timeout=TIMEOUT_S
    )


def record(api: Api, response: httpx2.Response) -> Json:
    """Return what is on record of a request that was answered."""
    path = f"/v1/invocations/{response.headers['cakework-invocation-id']}"

    def ended() -> Json | None:
        found: Json = api.http.get(path).json()
        return found if found.get("state") not in (None, "running") else None

    return until(ended, TIMEOUT_S, "the request is on record")


def test_requests_are_answered_and_on_record(api: Api, function: Json) -> None:
    """One instance serves them; bodies come whole; what goes wrong is told, and survived."""
    first, second = [visit(api, function, f"/{n}") for n in range(2)]
    assert (first.json()["path"], second.json()["path"]) == ("/0", "/1")
    assert second.headers["cakework-start"] == "warm"
    found = record(api, second)
    assert (found["state"], found["kind"], found["trigger"]) == ("succeeded", "direct", "http")
    body = bytes(range(256)) * 4096
    assert visit(api, function, "/echo", "POST", body).content == body
    failed = visit(api, function, "/raise")
    assert (failed.status_code, failed.json()["code"]) == (502, "handler_failed")
    assert "mine" not in failed.text
    assert record(api, failed)["error"]["message"] == "mine to know"
    for path, reason in (("/exit", "crash"), ("/eat", "out_of_memory")):
        gone = visit(api, function, path)
        assert (gone.status_code, record(api, gone)["reason"]) == (502, reason)
    assert visit(api, function, "/").json()["calls"] == 1
