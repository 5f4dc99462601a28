import asyncio
import base64
import json
import re
from pathlib import Path
from typing import Any

import pytest

from cakework.domain.ids import BUILD_ID_PATTERN, IMAGE_ID_PATTERN, new_build_id
from cakework.domain.orders import ContextFile, FilesSource, NodeProblem

from .fake_node import FakeNode
from .rig import DOCKERFILE, KEY, Rig, running, settings_for, until

pytestmark = pytest.mark.anyio
FILES = "/v1/image/build/files"


def a_file(**fields: Any) -> dict[str, Any]:
    return {"dir": ".", "name": "a", "content": "x", **fields}


async def test_a_build_is_answered_at_once_and_handed_to_the_node(rig: Rig) -> None:
    """The answer is ``created`` without an image; the node gets Dockerfile and files in bytes."""
    files = [
        a_file(name="app.py", content="print('é')\n"),
        a_file(dir="./lib/", name="x", content=base64.b64encode(b"\0\xff").decode())
        | {"encoding": "base64"},
    ]
    build = await rig.build(files=files)
    assert build.keys() == {"buildId", "status", "createdAt", "updatedAt"}
    assert re.match(BUILD_ID_PATTERN, build["buildId"])
    assert build["status"] == "created"
    await until(lambda: rig.node.build_orders, "the node has the order")
    order = rig.node.build_orders[0]
    assert order.build_id == build["buildId"]
    assert order.dockerfile == DOCKERFILE
    assert isinstance(order.source, FilesSource)
    assert order.source.files == [
        ContextFile(
            path="app.py", content_base64=base64.b64encode("print('é')\n".encode()).decode()
        ),
        ContextFile(path="lib/x", content_base64=base64.b64encode(b"\0\xff").decode()),
    ]


async def test_a_build_that_succeeds_has_its_image(rig: Rig) -> None:
    """getBuild, by GET and by POST, shows image id and status once the node says so."""
    build_id = (await rig.build())["buildId"]
    await until(lambda: rig.node.build_orders, "the node has the order")
    await rig.node.succeed(build_id)
    build = await rig.eventually(f"/v1/image/build/{build_id}", status="succeeded")
    assert re.match(IMAGE_ID_PATTERN, build["imageId"])
    assert build["updatedAt"] >= build["createdAt"]
    assert await rig.ok("POST", f"/v1/image/build/{build_id}") == build


async def test_a_build_that_fails_says_why(rig: Rig) -> None:
    """``error`` has the node's words, also with a NUL in them, and there is no image."""
    build_id = (await rig.build())["buildId"]
    await until(lambda: rig.node.build_orders, "the node has the order")
    await rig.node.fail(build_id, "RUN failed\0: 1")
    build = await rig.eventually(f"/v1/image/build/{build_id}", status="failed")
    assert build["error"] == "RUN failed\ufffd: 1"
    assert "imageId" not in build


async def test_a_build_that_the_node_refuses_has_failed(rig: Rig) -> None:
    """A refusal that another try would not change ends the build with the node's words."""
    rig.node.refusal = (400, NodeProblem(code="invalid_request", detail="too many files"))
    build_id = (await rig.build())["buildId"]
    build = await rig.eventually(f"/v1/image/build/{build_id}", status="failed")
    assert build["error"] == "too many files"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"dockerfile": ""}, ["dockerfile"]),
        ({"dockerfile": "RUN x"}, ["dockerfile"]),
        ({"dockerfile": 1}, ["dockerfile"]),
        ({"dockerfile": None}, ["dockerfile"]),
        ({"files": {}}, ["files"]),
        ({"files": None}, ["files"]),
        ({"files": [1]}, ["files.0"]),
        ({"files": [a_file(dir="../x")]}, ["files.0.dir"]),
        ({"files": [a_file(dir="/etc", name="a/b")]}, ["files.0.dir", "files.0.name"]),
        ({"files": [a_file(name="..")]}, ["files.0.name"]),
        ({"files": [a_file(name="")]}, ["files.0.name"]),
        ({"files": [a_file(name="a\0")]}, ["files.0.name"]),
        ({"files": [a_file(), a_file(dir="./")]}, ["files.1.name"]),
        ({"files": [a_file(), a_file(dir="a", name="b")]}, ["files.1.name"]),
        ({"files": [a_file(content="?", encoding="base64")]}, ["files.0.content"]),
        ({"files": [a_file(content="é", encoding="base64")]}, ["files.0.content"]),
        ({"files": [a_file(content="\ud800")]}, ["files.0.content"]),
        ({"files": [a_file(encoding="hex")]}, ["files.0.encoding"]),
        ({"files": [a_file(content=1)]}, ["files.0.content"]),
        ({"dockerfile": "FORM x", "files": [a_file(name="..")]}, ["dockerfile", "files.0.name"]),
    ],
)
async def test_what_cannot_be_built_is_refused(
    folder: Path, node: FakeNode, body: dict[str, Any], fields: list[str]
) -> None:
    """400 names every field at fault, and nothing is spooled or recorded."""
    async with running(settings_for(folder, None), node) as rig:
        whole: dict[str, Any] = {"dockerfile": DOCKERFILE, "files": [], **body}
        content = json.dumps(whole).encode()
        headers = {"Content-Type": "application/json"}
        problem = await rig.refused(400, "POST", FILES, content=content, headers=headers)
        assert [error["field"] for error in problem["errors"]] == fields
        assert list((rig.settings.server_dir / "spool").iterdir()) == []


async def test_a_dockerfile_that_does_not_parse_names_its_line(rig: Rig) -> None:
    """The message says which line, and what is wrong with it."""
    body: dict[str, Any] = {"dockerfile": "FROM x\nRUNN y", "files": []}
    problem = await rig.refused(400, "POST", FILES, json=body)
    assert "line 2: RUNN is not an instruction" in problem["errors"][0]["message"]


async def test_a_body_announced_as_too_large_is_refused_unread(
    folder: Path, node: FakeNode
) -> None:
    """413 as soon as the Content-Length is seen."""
    async with running(settings_for(folder, None, max_body_mb=1), node) as rig:
        answer = await sent(rig, b"Content-Length: 1048577\r\n\r\n")
        assert b" 413 " in answer
        assert b'"code":"too_large"' in answer


async def test_a_body_that_turns_out_too_large_is_refused_while_it_comes(
    folder: Path, node: FakeNode
) -> None:
    """413 as soon as it is seen, though the body has not ended."""
    async with running(settings_for(folder, None, max_body_mb=1), node) as rig:
        chunk = b"%x\r\n%s\r\n" % (1 << 20, b"x" * (1 << 20))
        answer = await sent(rig, b"Transfer-Encoding: chunked\r\n\r\n" + chunk * 2)
        assert b" 413 " in answer


async def sent(rig: Rig, rest: bytes) -> bytes:
    """Send the beginning of a build request, never its end; returns what is answered."""
    url = rig.client.base_url
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = f"POST {FILES} HTTP/1.1\r\nHost: x\r\nX-Api-Key: {KEY}\r\n"
    writer.write(head.encode() + rest)
    head = await reader.readuntil(b"\r\n\r\n")
    length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length"))
    answer = head + await reader.readexactly(int(length.split(b":")[1]))
    writer.close()
    await writer.wait_closed()
    return answer


async def test_the_quota_counts_unfinished_builds(folder: Path, node: FakeNode) -> None:
    """One more than the account may have gets 429; one that ended makes room."""
    async with running(settings_for(folder, None, max_builds_per_account=1), node) as rig:
        build_id = (await rig.build())["buildId"]
        body: dict[str, Any] = {"dockerfile": DOCKERFILE, "files": []}
        await rig.refused(429, "POST", FILES, json=body)
        await until(lambda: node.build_orders, "the node has the order")
        await node.fail(build_id, "no")
        await rig.eventually(f"/v1/image/build/{build_id}", status="failed")
        await rig.build()


async def test_the_spool_holds_an_order_until_its_build_has_ended(rig: Rig) -> None:
    """The file is there, for its owner only and sealed, from the answer until the build's end."""
    rig.node.refusal = (503, NodeProblem(code="unavailable", detail="not now"))
    build_id = (await rig.build(files=[a_file(content="of a stranger")]))["buildId"]
    spooled = rig.settings.server_dir / "spool" / f"{build_id}.sealed"
    assert spooled.exists()
    assert spooled.parent.stat().st_mode & 0o077 == 0
    marks = (b"of a stranger", base64.b64encode(b"of a stranger"), b"FROM")
    assert not [mark for mark in marks if mark in spooled.read_bytes()]
    rig.node.refusal = None
    await until(lambda: rig.node.build_orders, "the node has the order")
    await rig.node.succeed(build_id)
    await until(lambda: not spooled.exists(), "the spool is empty")


async def test_a_build_is_handed_over_when_the_node_comes_back(
    folder: Path, database_url: str | None
) -> None:
    """A build taken while the node is away, and lost by it after, is built all the same."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        build_id = (await rig.build())["buildId"]
        async with node.serving():
            await until(lambda: node.build_orders, "the node has the order")
    node.forget_everything("node-2")
    node.builds.clear()
    async with node.serving(), running(settings, node) as rig:
        await until(lambda: len(node.build_orders) == 2, "the node has the order again")
        assert node.build_orders[0] == node.build_orders[1]
        await node.succeed(build_id)
        await rig.eventually(f"/v1/image/build/{build_id}", status="succeeded")


async def test_a_build_whose_order_is_gone_fails(folder: Path, node: FakeNode) -> None:
    """A record without its spooled order does not wait for ever."""
    settings = settings_for(folder, None)
    node.refusal = (503, NodeProblem(code="unavailable", detail="not now"))
    async with running(settings, node) as rig:
        build_id = (await rig.build())["buildId"]
    (settings.server_dir / "spool" / f"{build_id}.sealed").unlink()
    stray = settings.server_dir / "spool" / f"{new_build_id()}.sealed"
    stray.write_text("{}")
    async with running(settings, node) as rig:
        build = await rig.eventually(f"/v1/image/build/{build_id}", status="failed")
        assert "lost" in build["error"]
        await until(lambda: not stray.exists(), "what belongs to no build is removed")


async def test_many_builds_at_once_all_reach_the_node(rig: Rig) -> None:
    """Twenty at the same time are all taken and all handed over, once."""
    builds = await asyncio.gather(*(rig.build() for _ in range(20)))
    await until(lambda: len(rig.node.build_orders) == 20, "the node has every order")
    assert {order.build_id for order in rig.node.build_orders} == {
        build["buildId"] for build in builds
    }
