"""buildImageFromGithub through HTTP, and what becomes of its token."""

import json
from pathlib import Path
from typing import Any

import pytest

from cakework.domain.orders import BuildOrder, GithubSource, NodeProblem

from .fake_node import FakeNode
from .rig import DOCKERFILE, Json, Rig, running, settings_for, until

pytestmark = pytest.mark.anyio
PATH = "/v1/image/build/github"
TOKEN = "ghp_Tr0ub4dor-and-3-of-the-test"
BODY: Json = {
    "dockerfile": DOCKERFILE,
    "token": TOKEN,
    "repository": "team/app.js",
    "branch": "feature/one",
}


async def asked(rig: Rig, **fields: Any) -> Json:
    """Ask for a build; return it as answered."""
    return await rig.ok("POST", PATH, json={**BODY, **fields})


async def ordered(rig: Rig, number: int = 1) -> BuildOrder:
    """Return the last of so many orders that the node was given."""
    await until(lambda: len(rig.node.build_orders) >= number, f"the node has {number} orders")
    return rig.node.build_orders[number - 1]


def files_with(rig: Rig, mark: str) -> list[Path]:
    """Return the server's files that have ``mark`` in them."""
    files = [file for file in rig.settings.data_dir.rglob("*") if file.is_file()]
    assert files
    return [file for file in files if mark.encode() in file.read_bytes()]


async def test_a_build_is_answered_at_once_and_handed_to_the_node(rig: Rig) -> None:
    """The answer is a Build that is created; the node gets every field."""
    build = await asked(rig, dockerignore="*.md\n")
    assert build.keys() == {"buildId", "status", "createdAt", "updatedAt"}
    assert build["status"] == "created"
    order = await ordered(rig)
    assert order.build_id == build["buildId"]
    assert (order.dockerfile, order.dockerignore) == (DOCKERFILE, "*.md\n")
    assert order.source == GithubSource(repository="team/app.js", branch="feature/one", token=TOKEN)
    await rig.node.succeed(order.build_id)
    done = await rig.eventually(f"/v1/image/build/{order.build_id}", status="succeeded")
    assert done["imageId"] == order.image_id
    image = await rig.ok("GET", f"/v1/image/{order.image_id}")
    assert (image["source"], image["buildId"]) == ("github", order.build_id)


async def test_what_may_be_left_out(rig: Rig) -> None:
    """Without a dockerignore the repository's counts; an empty token is for a public repository."""
    await asked(rig, token="")
    order = await ordered(rig)
    assert order.dockerignore is None
    assert order.token == ""


REFUSED: tuple[tuple[Json, list[str]], ...] = (
    ({"dockerfile": "FORM x"}, ["dockerfile"]),
    ({"dockerfile": None}, ["dockerfile"]),
    ({"dockerignore": 1}, ["dockerignore"]),
    ({"token": None}, ["token"]),
    ({"token": 1}, ["token"]),
    ({"token": "a\nhost=evil.example"}, ["token"]),
    ({"token": "x" * 4097}, ["token"]),
    ({"token": "\ud800"}, ["token"]),
    ({"repository": "app"}, ["repository"]),
    ({"repository": "--upload-pack=x/app"}, ["repository"]),
    ({"repository": "team/.."}, ["repository"]),
    ({"repository": "https://github.com/team/app"}, ["repository"]),
    ({"repository": "team/app.git"}, ["repository"]),
    ({"branch": ""}, ["branch"]),
    ({"branch": "--all"}, ["branch"]),
    ({"branch": "a..b"}, ["branch"]),
    ({"branch": "a:refs/heads/b"}, ["branch"]),
    ({"branch": "\ud800"}, ["branch"]),
    (
        {"repository": "x", "branch": "/", "dockerfile": ""},
        ["dockerfile", "repository", "branch"],
    ),
)


async def test_what_cannot_be_built_is_refused(folder: Path, node: FakeNode) -> None:
    """400 names every field at fault, repeats no token, and nothing is kept."""
    headers = {"Content-Type": "application/json"}
    async with running(settings_for(folder, None), node) as rig:
        for body, fields in REFUSED:
            content = json.dumps({**BODY, **body}).encode()
            problem = await rig.refused(400, "POST", PATH, content=content, headers=headers)
            assert [error["field"] for error in problem["errors"]] == fields
            assert TOKEN not in str(problem)
            assert "evil.example" not in str(problem)
        assert list((rig.settings.server_dir / "spool").iterdir()) == []
        assert node.build_orders == []


async def test_builds_are_counted_together(folder: Path, node: FakeNode) -> None:
    """The quota of unfinished builds is one for both kinds."""
    async with running(settings_for(folder, None, max_builds_per_account=1), node) as rig:
        await rig.build()
        await rig.refused(429, "POST", PATH, json=BODY)


async def test_a_build_is_of_one_account(rig: Rig) -> None:
    """Another account does not find it."""
    build_id = (await asked(rig))["buildId"]
    async with await rig.other_account() as other:
        assert (await other.get(f"/v1/image/build/{build_id}")).status_code == 404


async def test_a_request_repeated_with_its_key_builds_once(rig: Rig) -> None:
    """The same Idempotency-Key gives the same build; with another branch it is refused."""
    headers = {"Idempotency-Key": "one"}
    answers = [await rig.ok("POST", PATH, json=BODY, headers=headers) for _ in range(2)]
    assert answers[0] == answers[1]
    other = {**BODY, "branch": "other"}
    await rig.refused(409, "POST", PATH, json=other, headers=headers)
    await ordered(rig)
    assert len(rig.node.build_orders) == 1


async def test_the_token_is_in_no_file(rig: Rig) -> None:
    """Neither while the build waits for the node nor after is it in a file of the server's."""
    rig.node.refusal = (503, NodeProblem(code="unavailable", detail="not now"))
    headers = {"Idempotency-Key": "one"}
    build = await rig.ok("POST", PATH, json=BODY, headers=headers)
    spooled = rig.settings.server_dir / "spool" / f"{build['buildId']}.sealed"
    assert spooled.exists()
    assert files_with(rig, TOKEN) == []
    rig.node.refusal = None
    order = await ordered(rig)
    await rig.node.succeed(order.build_id)
    await until(lambda: not spooled.exists(), "the order is forgotten")
    assert files_with(rig, TOKEN) == []


async def test_a_node_that_lost_the_token_gets_the_order_again(rig: Rig) -> None:
    """At the next look, as it says so itself, with the token; once."""
    await asked(rig)
    first = await ordered(rig)
    rig.node.wants_order.add(first.build_id)
    await asked(rig, branch="other")
    await ordered(rig, 3)
    assert [order == first for order in rig.node.build_orders].count(True) == 2
    await asked(rig, branch="third")
    await ordered(rig, 4)
    assert [order == first for order in rig.node.build_orders].count(True) == 2


async def test_an_order_that_cannot_be_opened_fails_its_build(folder: Path, node: FakeNode) -> None:
    """When the key is another one, the build ends and says what to do."""
    settings = settings_for(folder, None)
    node.refusal = (503, NodeProblem(code="unavailable", detail="not now"))
    async with running(settings, node) as rig:
        build_id = (await asked(rig))["buildId"]
    (settings.server_dir / "secret.key").unlink()
    async with running(settings, node) as rig:
        build = await rig.eventually(f"/v1/image/build/{build_id}", status="failed")
        assert build["error"] == "The build's order was lost; start the build again."
