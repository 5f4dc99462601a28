"""Requests that are wrong get the contract's error and change nothing."""

from typing import Any

import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.footprint import Footprint

NO_IMAGE = "0" * 26
FILE: Json = {"dir": ".", "name": "a", "content": "x"}
DOCKERFILE = "FROM cakework/busybox"
START, BUILD = "/v1/vm/start", "/v1/image/build/files"


def start(**fields: Any) -> tuple[str, Json]:
    return START, {"imageId": NO_IMAGE, **fields}


def build(dockerfile: Any = DOCKERFILE, *files: Any) -> tuple[str, Json]:
    return BUILD, {"dockerfile": dockerfile, "files": list(files)}


BAD: dict[str, tuple[str, Json]] = {
    "an image that is no string": (START, {"imageId": 5}),
    "no image": (START, {}),
    "cpu zero": start(cpu=0),
    "cpu nine": start(cpu=9),
    "cpu in words": start(cpu="two"),
    "cpu and a half": start(cpu=1.5),
    "little memory": start(memory=255),
    "much memory": start(memory=16385),
    "port zero": start(port=0),
    "port too high": start(port=65536),
    "environment of numbers": start(envVars={"A": 1}),
    "environment with NUL": start(envVars={"A": "a\0b"}),
    "environment name with =": start(envVars={"A=B": "c"}),
    "huge environment": start(envVars={"A": "x" * 1024 * 1024}),
    "volume of zero": start(volumeGB=0),
    "volume of 501": start(volumeGB=501),
    "no Dockerfile": (BUILD, {"files": []}),
    "empty Dockerfile": build(""),
    "Dockerfile without FROM": build("RUN true"),
    "Dockerfile of nonsense": build("FROM cakework/busybox\nFLY me to the moon"),
    "files that are no list": (BUILD, {"dockerfile": DOCKERFILE, "files": "a"}),
    "file without name": build(DOCKERFILE, {"dir": ".", "content": ""}),
    "parent folder": build(DOCKERFILE, {**FILE, "dir": ".."}),
    "hidden parent folder": build(DOCKERFILE, {**FILE, "dir": "a/../../b"}),
    "absolute folder": build(DOCKERFILE, {**FILE, "dir": "/etc"}),
    "name with a slash": build(DOCKERFILE, {**FILE, "name": "../../etc/passwd"}),
    "name of dots": build(DOCKERFILE, {**FILE, "name": ".."}),
    "name with NUL": build(DOCKERFILE, {**FILE, "name": "a\0"}),
    "the same file twice": build(DOCKERFILE, FILE, FILE),
    "content of another type": build(DOCKERFILE, {**FILE, "content": 7}),
    "broken base64": build(DOCKERFILE, {**FILE, "encoding": "base64", "content": "%%%"}),
}
RAW = {
    "broken JSON": b'{"imageId": ',
    "a list": b"[]",
    "nothing": b"",
    "not UTF-8": b'{"imageId": "\xff"}',
    "deep nesting": b"[" * 100_000,
}


@pytest.fixture
def unchanged(api: Api, nothing_left: Footprint) -> Footprint:
    """Holds a test to starting and leaving nothing."""
    return nothing_left


def test_wrong_requests_are_refused_and_change_nothing(api: Api, unchanged: Footprint) -> None:
    """Each gets 400 as a problem that names the field, and no VM or build comes of it."""
    vms = api.vms()
    for what, (path, body) in BAD.items():
        answer = api.http.post(path, json=body)
        assert answer.status_code == 400, f"{what}: {answer.status_code} {answer.text}"
        problem = answer.json()
        assert answer.headers["content-type"].startswith("application/problem+json"), what
        assert problem["code"] == "invalid_request", what
        assert problem["requestId"] == answer.headers["x-request-id"], what
    assert api.vms() == vms


def test_bodies_that_are_no_request_are_refused(api: Api, unchanged: Footprint) -> None:
    """Whatever bytes come, the answer is 400."""
    for path in (START, BUILD):
        for what, body in RAW.items():
            headers = {"Content-Type": "application/json"}
            answer = api.http.post(path, content=body, headers=headers)
            assert answer.status_code == 400, f"{what}: {answer.status_code} {answer.text}"
            assert answer.json()["code"] == "invalid_request", what


def test_a_huge_body_is_refused(api: Api, unchanged: Footprint) -> None:
    """More than the setting allows is 413, also when its length is not announced."""
    announced = b'{"dockerfile": "' + b"x" * 65 * 1024 * 1024 + b'"}'
    pieces = (b"x" * 1024 * 1024 for _ in range(65))
    for body in (announced, pieces):
        answer = api.http.post(BUILD, content=body)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")


def test_what_is_not_there_is_404(api: Api, unchanged: Footprint) -> None:
    """Ids that are unknown, malformed or of another kind name nothing."""
    for vm_id in ("0" * 14, "xyz", "0" * 13, "..", "%00", "0" * 5000):
        for path in (f"/v1/vm/{vm_id}", f"/v1/vm/{vm_id}/logs"):
            assert api.http.get(path).status_code == 404, path
        assert api.http.post(f"/v1/vm/{vm_id}/stop").status_code == 404
    for build_id in ("0" * 8 + "-0000-0000-0000-" + "0" * 12, "1"):
        assert api.http.get(f"/v1/image/build/{build_id}").status_code == 404
    assert api.http.post(START, json={"imageId": NO_IMAGE}).status_code == 404
    assert api.http.get("/v1/nothing").status_code == 404


@pytest.mark.parametrize("batch", [49, 1001, "many"])
def test_a_log_query_out_of_range_is_refused(api: Api, busybox: str, batch: int | str) -> None:
    """Batches are 50 to 1000 lines."""
    with api.running(busybox, envVars={"SCRIPT": "echo x"}) as vm:
        answer = api.http.get(f"/v1/vm/{vm['id']}/logs", params={"batch": batch})
        assert answer.status_code == 400
        assert answer.json()["errors"][0]["field"] == "batch"
