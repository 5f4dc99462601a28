"""Secrets of a function in real VMs: in its process, and in no file of the platform."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

SECRET, NEXT = b"entrusted-4242-to-a-function", b"entrusted-1717-in-its-place"
"""Not what is in any file by itself: what is searched for is in this test's memory alone."""
KEPT = "-".join(("made", "at", "import", "4711"))
CODE = """\
import os, sys
kept = "-".join(("made", "at", "import", "4711"))
given = os.environ.get("KEY")
def handler(event, context):
    print("it is", os.environ["KEY"])
    if event["data"] == "fail":
        raise ValueError("not with " + context.secrets["KEY"])
    return [given, os.environ["KEY"] == context.secrets["KEY"], os.environ["KEY"][::-1]]
"""


@pytest.fixture
def own(platform: Platform) -> Iterator[Api]:
    with platform.api() as api:
        yield api


def put(api: Api, value: bytes) -> None:
    response = api.http.put("/v1/secrets/KEY", json={"value": value.decode()})
    assert response.status_code == 200, response.text


def made(api: Api, **settings: object) -> str:
    files = [{"dir": ".", "name": "main.py", "content": CODE}]
    body: Json = {"name": "entrusted", "runtime": "python3.11", "source": {"files": files}}
    function_id = api.post("/v1/functions", {**body, "settings": settings})["id"]

    def ready() -> bool:
        version = api.get(f"/v1/functions/{function_id}/versions/1")
        assert version["state"] != "failed", version
        return version["state"] == "ready" and version["snapshot"]["state"] == "made"

    until(ready, 250, "the function is ready")
    return function_id


def files_with(folder: Path, mark: bytes) -> list[Path]:
    """Return the files that have ``mark`` in them. Files come and go meanwhile."""
    found: list[Path] = []
    for path in folder.rglob("*"):
        try:
            if path.is_file() and not path.is_symlink() and has(path, mark):
                found.append(path)
        except FileNotFoundError:
            continue
    return found


def not_within(path: Path, folder: Path) -> bool:
    return not path.is_relative_to(folder)


def has(path: Path, mark: bytes) -> bool:
    rest = b""
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            if mark in rest + chunk:
                return True
            rest = chunk[-len(mark) :]
    return False


def test_a_secret_is_in_the_process_and_in_no_file(platform: Platform, own: Api) -> None:
    """Neither in snapshots nor in logs, records and what waits; as it is used, and after."""
    put(own, SECRET)
    function_id = made(own, secrets=["KEY"], idleTimeout=1)
    assert files_with(platform.data_dir, KEPT.encode()), "this search finds what a snapshot has"
    path = f"/v1/functions/{function_id}/invoke"
    answer = own.post(path, {"data": 1})
    assert answer["result"] == [None, True, SECRET.decode()[::-1]]
    failed = own.post(path, {"data": "fail"})
    assert failed["error"]["message"] == "not with ***"
    answer = own.post(path, {"data": 1})
    assert answer["state"] == "succeeded"
    settings = platform.settings
    spool = settings.node_dir / "journal"
    assert [file for file in files_with(settings.data_dir, SECRET) if not_within(file, spool)] == []
    put(own, NEXT)

    def replaced() -> bool:
        return own.post(path, {"data": 1})["result"][2] == NEXT.decode()[::-1]

    until(replaced, 60, "instances have the new value")
    # What they printed lies with the node until they are gone, as they are soon.
    for value in (SECRET, NEXT):
        until(lambda value=value: not files_with(settings.data_dir, value), 60, "no file has it")
    assert '"level": "debug"' in platform.log.read_text()
