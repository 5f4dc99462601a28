"""What one account may have of what is stored; another has its own."""

from dataclasses import replace
from pathlib import Path

import pytest

from cakework.domain.ids import AccountId
from cakework.server.logs import file, ledger
from cakework.server.logs.ledger import NOTICE

from .fake_node import FakeNode
from .rig import Json, Rig, eventually, running, settings_for, until

pytestmark = pytest.mark.anyio
BUILD, CACHE, START = "/v1/image/build/files", "/v1/vm/cache", "/v1/vm/start"
FROM: Json = {"dockerfile": "FROM cakework/busybox", "files": []}


async def headers_of_another(rig: Rig) -> dict[str, str]:
    return {"X-Api-Key": (await rig.server.keys.create("test", AccountId("other"))).key}


async def test_images_have_a_number(folder: Path, node: FakeNode, database_url: str | None) -> None:
    """Those that are being made count; one that is deleted, or fails, makes room for another."""
    settings = settings_for(folder, database_url, max_images_per_account=2)
    async with running(settings, node) as rig:
        image_id = await rig.image()
        unfinished = (await rig.build())["buildId"]
        problem = await rig.refused(429, "POST", BUILD, json=FROM)
        assert "has 2 images" in problem["detail"]
        body = {"imageUri": "registry.example/app:1", "username": "", "password": ""}
        await rig.refused(429, "POST", "/v1/image/import", json=body)
        other = await headers_of_another(rig)
        await rig.ok("POST", BUILD, json=FROM, headers=other)
        await rig.ok("DELETE", f"/v1/image/{image_id}")
        await rig.build()
        await rig.refused(429, "POST", BUILD, json=FROM)
        await until(lambda: unfinished in rig.node.builds, "the node has the build")
        await rig.node.fail(unfinished, "no")
        await rig.eventually(f"/v1/image/build/{unfinished}", status="failed")
        await rig.build()


async def test_images_have_a_size(folder: Path, node: FakeNode, database_url: str | None) -> None:
    """Whoever has as much makes no more."""
    settings = settings_for(folder, database_url, max_images_mb_per_account=1)
    async with running(settings, node) as rig:
        node.image_bytes = 1 << 19
        first, _ = await rig.image(), await rig.image()
        problem = await rig.refused(429, "POST", BUILD, json=FROM)
        assert "have 1 MiB and may have 1" in problem["detail"]
        await rig.ok("DELETE", f"/v1/image/{first}")
        await rig.image()


async def test_volumes_have_a_size(folder: Path, node: FakeNode, database_url: str | None) -> None:
    """As large as they were asked for, of VMs of all kinds, until they are destroyed."""
    settings = settings_for(folder, database_url, max_volumes_gb_per_account=10)
    async with running(settings, node) as rig:
        image_id = await rig.image()
        cached = (await rig.ok("POST", CACHE, json={"imageId": image_id, "volumeGB": 6}))["id"]
        await rig.vm(image_id, volumeGB=4)
        for path in (CACHE, START):
            body = {"imageId": image_id, "volumeGB": 1}
            problem = await rig.refused(429, "POST", path, json=body)
            assert "volumes of 10 GB and may have 10" in problem["detail"]
        await rig.vm(image_id)
        await rig.ok("POST", f"/v1/vm/{cached}/destroy")
        await rig.vm(image_id, volumeGB=6)


async def test_logs_have_a_size(folder: Path, node: FakeNode, database_url: str | None) -> None:
    """Of all VMs and builds of an account together. Who prints more loses the oldest lines, and the
    log says so; what another account printed before all of it stays."""
    settings = settings_for(folder, database_url, max_logs_mb_per_account=1)
    async with running(settings, node) as rig, await rig.other_account() as theirs:
        theirs = replace(rig, client=theirs)
        quiet = (await theirs.vm())["id"]
        await rig.node.push(rig.node.line(quiet, "oldest"))
        await theirs.messages(f"/v1/vm/{quiet}/logs", 1)
        build_id = (await rig.build())["buildId"]
        await rig.node.push(rig.node.build_line(build_id, "STEP 1"))
        await rig.messages(f"/v1/image/build/{build_id}/logs", 1)
        vm_id = (await rig.vm())["id"]
        path = f"/v1/vm/{vm_id}/logs?order=newest_first&batch=50"
        for number in range(12):
            lines = [rig.node.line(vm_id, f"{number}-{n} " + "x" * 900) for n in range(100)]
            await rig.node.push(*lines)
        await until_newest(rig, path, "11-99")
        assert await rig.messages(f"/v1/image/build/{build_id}/logs", 1) == [NOTICE]
        first, *rest = await rig.messages(f"/v1/vm/{vm_id}/logs", 1)
        assert (first, NOTICE in rest) == (NOTICE, False)
        assert await theirs.messages(f"/v1/vm/{quiet}/logs", 1) == ["oldest"]
    log = file.connect(settings.server_dir / "logs.db")
    assert 900_000 < ledger.taken(log, "default") <= 1 << 20
    assert ledger.taken(log, "other") == ledger.size_of("oldest")
    log.close()


async def until_newest(rig: Rig, path: str, beginning: str) -> None:
    """Wait until the newest line of a log begins so."""

    async def look() -> bool:
        lines = (await rig.ok("GET", path))["lines"]
        return bool(lines) and lines[0]["message"].startswith(beginning)

    await eventually(look, f"{path} ends with {beginning}")
