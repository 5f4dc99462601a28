"""``cakework images`` against a real server."""

import json
from pathlib import Path

import pytest

from .fake_node import FakeNode
from .rig import Rig, running, settings_for
from .test_cli_webhooks import cakework, run

pytestmark = pytest.mark.anyio


async def ids(rig: Rig) -> list[str]:
    return [image["imageId"] for image in await cakework(rig, "images")]


async def test_images_by_command(folder: Path, node: FakeNode) -> None:
    """Listed newest first; deleted but for the one that a VM uses, of which it says so."""
    async with running(settings_for(folder, None), node) as rig:
        first, used, last = [await rig.image() for _ in range(3)]
        vm = await rig.vm(used)
        assert await ids(rig) == [last, used, first]
        status, output, errors = await run(rig, "images", "delete", last, used, first)
        assert status == 1
        deleted = [json.loads(line) for line in output.splitlines()]
        assert [(image["imageId"], image["state"]) for image in deleted] == [
            (last, "deleted"),
            (first, "deleted"),
        ]
        problem = json.loads(errors)["error"]
        assert problem["code"] == "conflict"
        assert vm["id"] in problem["detail"]
        assert await ids(rig) == [used]
