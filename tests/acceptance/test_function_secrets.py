"""Secrets of a function in real VMs: in its process, and in no file of the platform."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from tests.acceptance.api import Api
from tests.acceptance.functions import made
from tests.acceptance.platform import Platform
from tests.acceptance.test_secrets import files_with
from tests.acceptance.waiting import until

SECRET, NEXT = "entrusted-4242-to-a-function", "entrusted-1717-in-its-place"
KEPT = "-".join(("made", "at", "import", "4711"))
"""What CODE has in memory when its snapshot is made, and no file by itself."""
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


def put(api: Api, value: str) -> None:
    response = api.http.put("/v1/secrets/KEY", json={"value": value})
    assert response.status_code == 200, response.text


def test_a_secret_is_in_the_process_and_in_no_file(
    platform: Platform, own: Api, tmp_path: Path
) -> None:
    """Neither in snapshots nor in logs, records and what waits; as it is used, and after."""
    before = tmp_path / "before"
    before.touch()

    def found(*marks: str) -> list[str]:
        return files_with(platform.data_dir, *marks, since=before)

    put(own, SECRET)
    function_id = made(own, f"entrusted-{uuid4()}", CODE, secrets=["KEY"], idleTimeout=1)
    assert found(KEPT), "this search finds what a snapshot has"
    path = f"/v1/functions/{function_id}/invoke"
    answer = own.post(path, {"data": 1})
    assert answer["result"] == [None, True, SECRET[::-1]]
    failed = own.post(path, {"data": "fail"})
    assert failed["error"]["message"] == "not with ***"
    answer = own.post(path, {"data": 1})
    assert answer["state"] == "succeeded"
    spool = str(platform.settings.node_dir / "journal")
    assert [file for file in found(SECRET) if not file.startswith(spool)] == []
    put(own, NEXT)

    def replaced() -> bool:
        return own.post(path, {"data": 1})["result"][2] == NEXT[::-1]

    until(replaced, 60, "instances have the new value")
    # What they printed lies with the node until they are gone, as they are soon.
    until(lambda: not found(SECRET, NEXT), 60, "no file has either")
    assert '"level": "debug"' in platform.log.read_text()
    own.http.delete(f"/v1/functions/{function_id}")
    own.http.delete("/v1/secrets/KEY")
