"""The shapes that answers have, field by field, written down apart from the server's own."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime
from typing import Any

from tests.acceptance.api import Json

ID = {
    "build": re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"),
    "image": re.compile(r"[0-7][0-9A-HJKMNP-TV-Z]{25}"),
    "vm": re.compile(r"[0-9a-f]{14}"),
    "webhook": re.compile(r"ep_[0-7][0-9A-HJKMNP-TV-Z]{25}"),
    "delivery": re.compile(r"dlv_[0-7][0-9A-HJKMNP-TV-Z]{25}"),
    "event": re.compile(r"msg_[0-7][0-9A-HJKMNP-TV-Z]{25}"),
    "function": re.compile(r"fn_[0-7][0-9A-HJKMNP-TV-Z]{25}"),
    "trigger": re.compile(r"trg_[0-7][0-9A-HJKMNP-TV-Z]{25}"),
    "invocation": re.compile(r"inv_[0-7][0-9A-HJKMNP-TV-Z]{25}"),
}
HOSTNAME = re.compile(r"[0-7][0-9a-hjkmnp-tv-z]{25}\.localhost")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")
RECENT_S = 3600
BUILD = {"buildId", "status", "createdAt", "updatedAt"}
VM = {
    *("id", "hostname", "cpu", "memory", "imageId"),
    *("state", "volumeGB", "createdAt", "updatedAt"),
}


def is_id(kind: str, value: Any) -> None:
    """Hold ``value`` to being the id of a ``kind`` of thing."""
    assert isinstance(value, str)
    assert ID[kind].fullmatch(value), f"{value} is not the id of a {kind}"


def is_time(value: Any) -> datetime:
    """Hold ``value`` to RFC 3339 in UTC with milliseconds, and to the last hour; return it."""
    assert isinstance(value, str)
    assert TIME.fullmatch(value), value
    at = datetime.fromisoformat(value)
    assert abs((datetime.now(UTC) - at).total_seconds()) < RECENT_S, value
    return at


def time_of(line: Json) -> str:
    """Return when a line was printed, as the API writes times."""
    at = datetime.fromtimestamp(line["timestamp"] / 1000, UTC)
    return at.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def has_times(body: Json) -> None:
    """Hold a body to having been created, and changed not before that."""
    assert is_time(body["createdAt"]) <= is_time(body["updatedAt"])


def is_build(build: Json, status: str, *more: str) -> None:
    """Hold a body to being a Build with exactly the fields of every one, and ``more``."""
    assert set(build) == {*BUILD, *more}
    is_id("build", build["buildId"])
    assert build["status"] == status
    has_times(build)
    if "imageId" in more:
        is_id("image", build["imageId"])
    if "error" in more:
        assert isinstance(build["error"], str)
        assert build["error"]


def is_vm(vm: Json, state: str, *more: str, **values: Any) -> None:
    """Hold a body to being a Vm with exactly the fields of every one, and ``more``.

    Cpu, memory and volume are the defaults unless ``values`` has others.
    """
    assert set(vm) == {*VM, *more}, vm
    is_id("vm", vm["id"])
    is_id("image", vm["imageId"])
    assert HOSTNAME.fullmatch(vm["hostname"])
    expected = {"cpu": 1, "memory": 256, "volumeGB": 0, "state": state, **values}
    assert {name: vm[name] for name in expected} == expected
    assert not any(isinstance(vm[name], bool | float) for name in ("cpu", "memory", "volumeGB"))
    has_times(vm)


def are_lines(lines: list[Json], levels: Iterable[str] = ("info", "error")) -> None:
    """Hold lines of a log to their shape, and to being in order, the oldest first."""
    assert lines
    for line in lines:
        assert set(line) == {"id", "timestamp", "level", "message"}
        assert type(line["id"]) is int
        assert type(line["timestamp"]) is int
        assert type(line["message"]) is str
        assert line["level"] in levels
        assert abs(datetime.now(UTC).timestamp() * 1000 - line["timestamp"]) < RECENT_S * 1000
    ids, times = ([line[name] for line in lines] for name in ("id", "timestamp"))
    assert ids == sorted(set(ids))
    assert times == sorted(times)


def is_problem(answer: Any, status: int, code: str, *fields: str) -> Json:
    """Hold an answer to being a problem with a code, naming exactly ``fields``; return it."""
    problem: Json = answer.json()
    assert (answer.status_code, problem["code"]) == (status, code), answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    members = {"type", "title", "status", "detail", "code", "requestId"}
    assert set(problem) == members | ({"errors"} if fields else set())
    assert problem["type"] == f"urn:cakework:problem:{code}"
    assert problem["status"] == status
    assert all(problem[name] and isinstance(problem[name], str) for name in members - {"status"})
    assert problem["requestId"] == answer.headers["x-request-id"]
    assert [fault["field"] for fault in problem.get("errors", [])] == list(fields)
    for fault in problem.get("errors", []):
        assert set(fault) == {"field", "message"}
        assert fault["message"]
    return problem
