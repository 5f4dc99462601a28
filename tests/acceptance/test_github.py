"""Builds from a git host with tokens, over HTTPS, through the API alone."""

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.footprint import at_rest, footprint, grown
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until
from tests.integration.node.repositories import NO_RIGHT, TOKEN, GitServer
from tests.integration.node.test_github_builds import commands, files_with, processes_with

DOCKERFILE = 'FROM cakework/busybox\nCOPY . /app\nCMD ["sh", "/app/run.sh"]\n'
APP = {
    "run.sh": "#!/bin/sh\necho from the repository\nls -A /app\n",
    "Dockerfile": "FROM nowhere\n",
    "left-out.md": "",
}
NAMES = ["Dockerfile", "run.sh"]


@pytest.fixture(scope="module")
def repository(git_host: GitServer) -> str:
    git_host.make("team/service", APP)
    return "team/service"


def asked(api: Api, repository: str, **fields: str) -> str:
    """Ask for a build; return its id."""
    body = {
        "dockerfile": DOCKERFILE,
        "dockerignore": "*.md\n",
        "token": TOKEN,
        "repository": repository,
        "branch": "main",
        **fields,
    }
    build = api.post("/v1/image/build/github", body)
    assert build["status"] == "created"
    return build["buildId"]


def ended(api: Api, build_id: str) -> Json:
    """Return a build once it has ended."""

    def look() -> Json | None:
        build = api.get(f"/v1/image/build/{build_id}")
        return build if build["status"] != "created" else None

    return until(look, 250, f"build {build_id} ends")


@contextmanager
def held(git_host: GitServer) -> Generator[threading.Event]:
    """Have the git host wait with what it is asked for; give what says that it was asked."""
    git_host.asked_for_pack.clear()
    git_host.may_answer.clear()
    try:
        yield git_host.asked_for_pack
    finally:
        git_host.may_answer.set()


def test_a_repository_becomes_a_vm(api: Api, repository: str) -> None:
    """Its files run, with the Dockerfile and the .dockerignore of the request."""
    build_id = asked(api, repository)
    build = ended(api, build_id)
    log = api.messages(f"/v1/image/build/{build_id}/logs")
    assert build["status"] == "succeeded", (build, log)
    assert log[0].startswith(f"cloning {repository}, branch main, of https://")
    assert log[1].endswith(", 3 files")
    with api.running(build["imageId"]) as vm:
        printed = api.wait_for_line(vm["id"], "run.sh")
    assert printed == ["from the repository", *NAMES]
    assert api.get(f"/v1/image/{build['imageId']}")["source"] == "github"


def test_what_cannot_be_cloned_says_why(api: Api, repository: str) -> None:
    """A wrong token, one without the right, a repository and a branch that are not there."""
    gone = "it is not there, or the token has no right to see it"
    builds = {
        asked(api, repository, token="ghp_wrong"): "does not take the token",
        asked(api, repository, token=NO_RIGHT): "the token has no right to read it",
        asked(api, "team/nowhere"): f"team/nowhere cannot be cloned: {gone}",
        asked(api, repository, branch="gone"): "team/service has no branch gone",
    }
    for build_id, why in builds.items():
        build = ended(api, build_id)
        assert build["status"] == "failed"
        assert build["error"].endswith(why)


def test_the_token_is_nowhere(
    platform: Platform, api: Api, git_host: GitServer, repository: str
) -> None:
    """While the repository is fetched and after: in no process, no file, no log of the host."""
    with held(git_host) as was_asked:
        build_id = asked(api, repository, dockerfile=f"{DOCKERFILE}RUN env\n")
        assert was_asked.wait(60)
        assert any("remote-https" in command for command in commands())
        assert processes_with(TOKEN) == []
        assert files_with(platform.data_dir, TOKEN) == []
    assert ended(api, build_id)["status"] == "succeeded"
    assert files_with(platform.data_dir, TOKEN) == []
    assert platform.log.is_relative_to(platform.data_dir)
    assert not any(TOKEN in line for line in api.messages(f"/v1/image/build/{build_id}/logs"))


@pytest.mark.parametrize("part", ["node", "server"])
def test_a_build_outlives_what_clones_it(
    platform: Platform, api: Api, git_host: GitServer, repository: str, part: str
) -> None:
    """kill -9 of the node ends git, and the node gets the order again; that of the server costs
    nothing. The build succeeds, and no process, network, mount or cgroup is left over."""
    before = at_rest(platform)
    with held(git_host) as was_asked:
        build_id = asked(api, repository, dockerfile=f"{DOCKERFILE}RUN echo {time.time()}\n")
        assert was_asked.wait(60)
        platform.kill("node" if part == "node" else "server")
    build = ended(api, build_id)
    assert build["status"] == "succeeded", build
    again = "[cakework: the node was restarted; building again]"
    assert (again in api.messages(f"/v1/image/build/{build_id}/logs")) == (part == "node")

    def left() -> dict[str, int]:
        more = grown(before, footprint(platform))
        return {name: count for name, count in more.items() if name != "files"}

    until(lambda: not left(), 60, lambda: f"nothing is left; there are {left()}")
    assert list((platform.settings.node_dir / "builds" / "work").iterdir()) == []
    spool = platform.settings.server_dir / "spool"
    until(lambda: not list(spool.iterdir()), 60, "the order is forgotten")
