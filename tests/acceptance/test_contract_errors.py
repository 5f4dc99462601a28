"""The contract of errors: each status as a problem, with every field, and X-Request-Id always.

What an error of each call looks like is held to the document by the client of these tests.
"""

import json
from pathlib import Path
from uuid import uuid4

import httpx2
import pytest

from tests.acceptance import guests
from tests.acceptance.api import TIMEOUT_S, Api, Json
from tests.acceptance.conftest import VMS_MB
from tests.acceptance.document import Document
from tests.acceptance.platform import Platform
from tests.acceptance.shapes import is_problem
from tests.integration.node.registries import PASSWORD, Entry, Layout, Registry, tar_of

NO_IMAGE = "0" * 26
START, BUILD, IMPORT = "/v1/vm/start", "/v1/image/build/files", "/v1/image/import"


def test_400_names_every_field_at_fault(api: Api) -> None:
    """All of them at once, in the names of the wire, down to the place in a list."""
    body: Json = {"imageId": 1, "cpu": 9, "memory": 255, "port": 0, "volumeGB": 501}
    is_problem(api.http.post(START, json=body), 400, "invalid_request", *body)
    file = {"dir": "..", "name": "a/b", "content": "x"}
    good = {"dir": ".", "name": "a", "content": "x"}
    answer = api.http.post(BUILD, json={"dockerfile": "FROM a", "files": [good, file]})
    is_problem(answer, 400, "invalid_request", "files.1.dir", "files.1.name")
    is_problem(api.http.post(START, content=b"{"), 400, "invalid_request", "body")
    is_problem(api.http.post(BUILD, json={"files": []}), 400, "invalid_request", "dockerfile")


@pytest.mark.parametrize("headers", [{}, {"X-Api-Key": ""}, {"X-Api-Key": "cw_wrong"}])
def test_401_without_a_valid_key(
    platform: Platform, document: Document, headers: dict[str, str]
) -> None:
    """Before anything else is looked at, the body and the id included."""
    hooks = {"response": [document.check]}
    with httpx2.Client(base_url=platform.url, event_hooks=hooks, timeout=TIMEOUT_S) as http:
        for method, path in (("GET", "/vms"), ("POST", START), ("GET", "/v1/vm/none/logs")):
            answer = http.request(method, path, headers=headers)
            is_problem(answer, 401, "unauthenticated")


def test_404_for_what_is_not_there(api: Api) -> None:
    """Ids that nobody has, ids that cannot be, and addresses without a call."""
    for path in ("/v1/vm/" + "0" * 14, "/v1/vm/x/logs", f"/v1/image/build/{uuid4()}", "/v1/x"):
        is_problem(api.http.get(path), 404, "not_found")
    is_problem(api.http.post(START, json={"imageId": NO_IMAGE}), 404, "not_found")
    is_problem(api.http.post("/v1/vm/cache", json={"imageId": "none"}), 404, "not_found")


def test_405_says_what_is_taken(api: Api) -> None:
    """A call under another method is refused with the methods that there are."""
    for method, path, allowed in (
        ("GET", START, "POST"),
        ("DELETE", "/v1/vms", "GET"),
        ("PUT", f"/v1/image/build/{uuid4()}", "GET, POST"),
    ):
        answer = api.http.request(method, path)
        is_problem(answer, 405, "method_not_allowed")
        assert answer.headers["Allow"] == allowed


def test_409_when_the_state_does_not_allow_it(api: Api, busybox: str) -> None:
    """What is destroyed does not start; one-time VMs and cached ones have each their own stop;
    a key that is used again goes with the same body."""
    vm = api.post("/v1/vm/cache", {"imageId": busybox})
    is_problem(api.http.post(f"/v1/vm/{vm['id']}/stop"), 409, "conflict")
    api.post(f"/v1/vm/{vm['id']}/destroy")
    is_problem(api.http.post(f"/v1/vm/cached/{vm['id']}/start"), 409, "conflict")
    with api.running(busybox, envVars={"SCRIPT": guests.IDLE}) as once:
        for step in ("start", "stop"):
            answer = api.http.post(f"/v1/vm/cached/{once['id']}/{step}")
            is_problem(answer, 409, "conflict")
    key = {"Idempotency-Key": str(uuid4())}
    first = api.http.post("/v1/vm/cache", json={"imageId": busybox}, headers=key)
    assert first.is_success
    assert api.http.post("/v1/vm/cache", json={"imageId": busybox}, headers=key).json() == (
        first.json()
    )
    other = api.http.post("/v1/vm/cache", json={"imageId": busybox, "port": 1}, headers=key)
    is_problem(other, 409, "conflict")
    api.post(f"/v1/vm/{first.json()['id']}/destroy")


def test_413_for_a_body_that_is_too_large(api: Api) -> None:
    """More than is taken, announced or not."""
    large = json.dumps({"dockerfile": "FROM a\n" + "#" * (65 << 20), "files": []}).encode()
    is_problem(api.http.post(BUILD, content=large), 413, "too_large")
    pieces = (large[at : at + (1 << 20)] for at in range(0, len(large), 1 << 20))
    is_problem(api.http.post(BUILD, content=pieces), 413, "too_large")


def test_503_when_the_host_has_no_room(api: Api, busybox: str) -> None:
    """More memory than may be promised: when to try again is said, and no VM comes of it."""
    before = api.vms()
    answer = api.http.post(START, json={"imageId": busybox, "memory": VMS_MB + 1})
    is_problem(answer, 503, "no_room")
    assert int(answer.headers["Retry-After"]) > 0
    assert [vm for vm in api.vms() if vm not in before and vm["state"] != "destroyed"] == []


@pytest.fixture
def foreign(registry: Registry, tmp_path: Path) -> str:
    """An image in the registry that is not for linux/amd64; its reference."""
    layout = Layout(tmp_path / "layout")
    image = layout.image([(tar_of([Entry("here", b"yes")]), "gzip")], "arm64")
    return registry.push(layout.index(image), "team/foreign:1")


def test_what_a_registry_says_is_passed_on(
    api: Api, registry: Registry, shell: str, foreign: str
) -> None:
    """A wrong password, a name that is not there, an image for other machines, an address that
    must not be reached."""
    wrong: Json = {"imageUri": shell, "password": "wrong"}
    answer = api.http.post(IMPORT, json=wrong)
    is_problem(answer, 400, "registry_denied", "username", "password")
    for name in ("team/none:1", "team/shell:2"):
        body = {"imageUri": f"{registry.address}/{name}", "password": PASSWORD}
        is_problem(api.http.post(IMPORT, json=body), 404, "image_not_in_registry")
    body = {"imageUri": foreign, "password": PASSWORD}
    problem = is_problem(api.http.post(IMPORT, json=body), 400, "wrong_platform", "imageUri")
    assert "linux/arm64" in problem["detail"]
    unreachable = {"imageUri": "127.0.0.1:1/team/app:1", "password": PASSWORD}
    answer = api.http.post(IMPORT, json=unreachable)
    is_problem(answer, 400, "registry_unreachable", "imageUri")
    answer = api.http.post(IMPORT, json={"imageUri": "Not A Name", "password": ""})
    is_problem(answer, 400, "invalid_request", "imageUri")
