"""listBuilds and cancelBuild through HTTP."""

from pathlib import Path

import pytest

from .fake_node import FakeNode
from .rig import Rig, running, settings_for, until

pytestmark = pytest.mark.anyio


async def test_a_cancelled_build_has_failed_and_ends_on_the_node(rig: Rig) -> None:
    """The error says so, again changes nothing, and what the node says later does not count."""
    build_id = (await rig.build())["buildId"]
    path = f"/v1/image/build/{build_id}"
    await until(lambda: build_id in rig.node.builds, "the node has the build")
    cancelled = await rig.ok("POST", f"{path}/cancel")
    assert cancelled["status"] == "failed"
    assert cancelled["error"] == "The build was cancelled."
    assert "imageId" not in cancelled
    assert build_id not in rig.node.builds
    assert await rig.ok("POST", f"{path}/cancel") == cancelled
    await rig.node.succeed(build_id)
    await until(lambda: not rig.node.facts, "the fact is stored")
    assert await rig.ok("GET", path) == cancelled


async def test_what_has_succeeded_is_not_cancelled(rig: Rig) -> None:
    """409, and the image stays."""
    await rig.image()
    build_id = rig.node.build_orders[0].build_id
    await rig.refused(409, "POST", f"/v1/image/build/{build_id}/cancel")
    assert (await rig.ok("GET", f"/v1/image/build/{build_id}"))["status"] == "succeeded"
    await rig.refused(404, "POST", f"/v1/image/build/{'0' * 8}-0000-0000-0000-{'0' * 12}/cancel")


async def test_a_build_that_the_node_could_not_be_told_of_is_ended_by_the_loop(
    folder: Path,
) -> None:
    """Cancelled while the node is away, it ends once the node is back."""
    settings = settings_for(folder, None)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            build_id = (await rig.build())["buildId"]
            await until(lambda: build_id in node.builds, "the node has the build")
        cancelled = await rig.ok("POST", f"/v1/image/build/{build_id}/cancel")
        assert cancelled["status"] == "failed"
        assert build_id in node.builds
        async with node.serving():
            await until(lambda: build_id not in node.builds, "it is ended")


async def test_builds_are_listed_newest_first_in_pages(folder: Path, node: FakeNode) -> None:
    """Each once, also when more come in between; status narrows the list."""
    settings = settings_for(folder, None, max_builds_per_account=200)
    async with running(settings, node) as rig:
        ids = [(await rig.build())["buildId"] for _ in range(104)]
        first = await rig.ok("GET", "/v1/image/builds")
        await rig.build()
        params = {"pagination": first["pagination"]}
        second = await rig.ok("GET", "/v1/image/builds", params=params)
        assert "pagination" not in second
        found = first["builds"] + second["builds"]
        assert [build["buildId"] for build in found[:1]] == ids[-1:]
        assert sorted(build["buildId"] for build in found) == sorted(ids)
        made = [build["createdAt"] for build in found]
        assert made == sorted(made, reverse=True)
        one = await rig.ok("POST", f"/v1/image/build/{ids[7]}/cancel")
        failed = await rig.ok("GET", "/v1/image/builds", params={"status": "failed"})
        assert failed == {"builds": [one]}
        await rig.refused(400, "GET", "/v1/image/builds", params={"pagination": "x"})
        await rig.refused(400, "GET", "/v1/image/builds", params={"status": "lost"})
