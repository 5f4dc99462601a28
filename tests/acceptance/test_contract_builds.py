"""The contract of every call about builds: each field of each answer, however it is spelled."""

import base64
from uuid import uuid4

import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.shapes import are_lines, is_build, time_of
from tests.acceptance.waiting import until
from tests.integration.node.repositories import TOKEN, GitServer

DOCKERFILE = "FROM cakework/busybox\nCOPY . /c\nRUN cat /c/a/b/text /c/raw | md5sum; echo e >&2\n"
RAW = bytes(range(256))
FILES: list[Json] = [
    {"dir": ".", "name": "raw", "content": base64.b64encode(RAW).decode(), "encoding": "base64"},
    {"dir": "a/b", "name": "text", "content": "Grüße\n"},
]
FOLDER = "/v1/image/build"


@pytest.fixture(scope="module")
def built(api: Api) -> Json:
    """A build that has succeeded, with steps that no build had before."""
    dockerfile = DOCKERFILE.replace("\n", f"\nENV UNIQUE={uuid4()}\n", 1)
    body: Json = {"dockerfile": dockerfile, "files": FILES}
    build_id = api.post(f"{FOLDER}/files", body)["buildId"]
    return until(lambda: ended(api, build_id), 250, "the build ends")


def ended(api: Api, build_id: str) -> Json | None:
    build = api.get(f"{FOLDER}/{build_id}")
    return None if build["status"] == "created" else build


@pytest.mark.contract("buildImageFromFiles", "getBuild")
def test_a_build_is_answered_at_once_and_then_succeeds(api: Api) -> None:
    """`created` without an image, which is there when it has succeeded; never an error."""
    build = api.post(f"{FOLDER}/files", {"dockerfile": DOCKERFILE, "files": FILES})
    is_build(build, "created")
    later = until(lambda: ended(api, build["buildId"]), 250, "the build ends")
    is_build(later, "succeeded", "imageId")
    same = ("buildId", "createdAt")
    assert [later[name] for name in same] == [build[name] for name in same]


@pytest.mark.contract("buildImageFromFiles")
def test_a_build_that_fails_has_an_error_and_no_image(api: Api) -> None:
    """`failed` with the reason; files may be none at all."""
    body: Json = {"dockerfile": "FROM cakework/busybox\nRUN exit 3\n", "files": []}
    build_id = api.post(f"{FOLDER}/files", body)["buildId"]
    is_build(until(lambda: ended(api, build_id), 250, "the build ends"), "failed", "error")


@pytest.mark.contract("buildImageFromGithub")
def test_a_build_from_github_is_answered_at_once(api: Api) -> None:
    """`created` as any other, before the repository is asked for; failed when there is none."""
    body: Json = {"dockerfile": DOCKERFILE, "token": "t", "repository": "o/r", "branch": "main"}
    for more in ({}, {"dockerignore": "*.md"}):
        build = api.post(f"{FOLDER}/github", body | more)
        is_build(build, "created")
        failed = until(lambda build=build: ended(api, build["buildId"]), 250, "the build ends")
        is_build(failed, "failed", "error")


@pytest.mark.contract("buildImageFromGithub", "getBuild")
def test_a_build_from_github_succeeds(api: Api, git_host: GitServer) -> None:
    """As any other: `succeeded` with the id of an image that is there."""
    git_host.make("team/contract", {"text": "yes"})
    wanted = {"token": TOKEN, "repository": "team/contract", "branch": "main"}
    body: Json = {"dockerfile": "FROM cakework/busybox\nCOPY . /c\n", **wanted}
    build = api.post(f"{FOLDER}/github", body)
    is_build(build, "created")
    later = until(lambda: ended(api, build["buildId"]), 250, "the build ends")
    is_build(later, "succeeded", "imageId")
    assert [later[name] for name in ("buildId", "createdAt")] == [
        build["buildId"],
        build["createdAt"],
    ]
    image = api.get(f"/v1/image/{later['imageId']}")
    assert (image["source"], image["buildId"]) == ("github", build["buildId"])


@pytest.mark.contract("getBuild", "getBuildByPost")
def test_a_build_is_looked_at_by_get_and_by_post(api: Api, built: Json) -> None:
    """Both give the same answer, with a body, with an empty one, with none at all."""
    path = f"{FOLDER}/{built['buildId']}"
    assert api.get(path) == built
    for answer in (api.http.post(path, json={}), api.http.post(path), api.http.post(path, json=[])):
        assert (answer.status_code, answer.json()) == (200, built)


@pytest.mark.contract("listBuilds")
def test_builds_are_listed(api: Api, built: Json) -> None:
    """As getBuild has them, the newest first, and only those of the status that is asked for."""
    page = api.get("/v1/image/builds")
    assert set(page) <= {"builds", "pagination"}
    assert built in page["builds"]
    times = [build["createdAt"] for build in page["builds"]]
    assert times == sorted(times, reverse=True)
    for build in api.get("/v1/image/builds", status="failed")["builds"]:
        is_build(build, "failed", "error")


@pytest.mark.contract("cancelBuild")
def test_a_cancelled_build_has_failed(api: Api) -> None:
    """It says so; cancelling it again is no error and changes nothing."""
    body: Json = {"dockerfile": "FROM cakework/busybox\nRUN sleep 1000\n", "files": []}
    path = f"{FOLDER}/{api.post(f'{FOLDER}/files', body)['buildId']}"
    api.post(f"{path}/cancel")
    cancelled = until(lambda: ended(api, path.rpartition("/")[2]), 60, "the build ends")
    is_build(cancelled, "failed", "error")
    assert api.post(f"{path}/cancel") == cancelled


@pytest.mark.contract("getBuildLogs", "getFunctionBuildLogs")
def test_the_log_of_a_build_under_both_names(api: Api, built: Json) -> None:
    """The same lines, each with all its fields; what the build printed is among them."""
    path = f"image/build/{built['buildId']}/logs"
    page = api.get(f"/v1/{path}")
    assert set(page) == {"lines"}
    are_lines(page["lines"])
    assert "291ce8b0a7c3d226ed0355e52445df0b  -" in [line["message"] for line in page["lines"]]
    assert api.get(f"/v1/{path.replace('image', 'function')}") == page


@pytest.mark.contract("getBuildLogs", "getFunctionBuildLogs")
def test_what_is_followed_of_a_build_is_narrowed(api: Api, built: Json) -> None:
    """By query and by range, under both names, as a page is."""
    path = f"/v1/image/build/{built['buildId']}/logs"
    lines = api.get(path)["lines"]
    at = time_of(lines[-1])
    for query in ({"query": "MD5SUM"}, {"from": at}, {"query": "step", "to": at}):
        page = api.get(path, **query)["lines"]
        assert page
        assert list(api.follow(path, **query)) == page
        assert list(api.follow(path.replace("image", "function"), **query)) == page
    assert len(api.get(path, query="MD5SUM")["lines"]) < len(lines)
    assert list(api.follow(path, query="not in any line")) == []
