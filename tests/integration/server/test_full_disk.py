"""The disk that the server writes to is nearly full: nothing new is taken on, all else goes on."""

from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

import pytest

from cakework.cli.checks import Level
from cakework.cli.checks.machine import check_store
from cakework.domain.errors import NoRoom
from cakework.server.logs import file, ledger
from cakework.server.logs.ledger import NOTICE
from cakework.server.store.free_space import free_mb

from .fake_node import FakeNode
from .rig import Rig, eventually, running, settings_for
from .test_access import BODIES, CALLS, function_ids, ids_of, webhook_ids

pytestmark = pytest.mark.anyio
FULL_MB = 10**9
"""More than any disk has: the threshold is moved, the disk is looked at as ever."""
MAKE = {
    *("buildImageFromFiles", "buildImageFromGithub", "importImage", "startVM", "cacheVM"),
    *("startCachedVM", "forkCachedVM", "createWebhook", "rotateWebhookSecret", "testWebhook"),
    *("redeliverWebhook", "createFunction", "deployFunction", "deployFunctionFromArchive"),
    *("putDraft", "testFunction", "invokeFunction", "replayInvocation", "replayDeadLetters"),
    *("putSecret", "applyTransform"),
}
LISTS = ("/v1/vms", "/v1/image/builds", "/v1/functions", "/v1/invocations", "/v1/secrets")


class Disk:
    """A server on a disk that is full or not, as often as it is started."""

    def __init__(self, folder: Path, node: FakeNode, database_url: str | None) -> None:
        self.folder, self.node, self.database_url = folder, node, database_url

    def full(self) -> AbstractAsyncContextManager[Rig]:
        return self._with(min_free_store_mb=FULL_MB)

    def fine(self) -> AbstractAsyncContextManager[Rig]:
        return self._with(min_free_store_mb=1)

    def _with(self, **changes: int) -> AbstractAsyncContextManager[Rig]:
        return running(settings_for(self.folder, self.database_url, **changes), self.node)


@pytest.fixture
def disk(folder: Path, node: FakeNode, database_url: str | None) -> Disk:
    """The disk of a server."""
    return Disk(folder, node, database_url)


async def test_what_makes_things_is_refused_and_all_else_goes_on(disk: Disk) -> None:
    """Every call of the contract: those that make something leave nothing behind, also with a key
    under which they are repeated; what was made before is seen, stopped and deleted."""
    async with disk.fine() as rig:
        vm, unused = await rig.vm(), await rig.image()
        ids = {**ids_of(rig, vm), **await webhook_ids(rig), **await function_ids(rig)}
        cache = {"imageId": vm["imageId"], "port": 80, "autoStart": True}
        cached = (await rig.ok("POST", "/v1/vm/cache", json=cache))["id"]
    async with disk.full() as rig:
        before = [await rig.ok("GET", path) for path in LISTS]
        for name, method, path in CALLS:
            if name not in MAKE:
                continue
            response = await rig.client.request(
                method,
                path.format(**ids),
                json=BODIES.get(name),
                headers={"Idempotency-Key": name},
            )
            assert (response.status_code, response.json()["code"]) == (503, "no_room"), name
            assert "nearly full" in response.json()["detail"]
            assert int(response.headers["retry-after"]) > 0
        with pytest.raises(NoRoom):
            await rig.server.wakes.wake(cached)
        after = [await rig.ok("GET", path) for path in LISTS]
        assert after == before
        for name, method, path in CALLS:
            if name in MAKE or method == "DELETE" or path.endswith(("/stop", "/destroy")):
                continue
            response = await rig.client.request(method, path.format(**ids), json=BODIES.get(name))
            assert response.status_code != 503, name
        assert (await rig.ok("POST", f"/v1/vm/{vm['id']}/stop"))["state"] == "destroyed"
        assert (await rig.ok("POST", f"/v1/vm/{cached}/destroy"))["state"] == "destroyed"
        await rig.ok("DELETE", f"/v1/image/{unused}")
        await rig.client.delete(f"/v1/webhooks/{ids['webhookId']}")
        assert await rig.ok("GET", "/v1/webhooks") == {"webhooks": []}
    async with disk.fine() as rig:
        again = {"Idempotency-Key": "startVM"}
        body = {"imageId": vm["imageId"]}
        started = await rig.ok("POST", "/v1/vm/start", json=body, headers=again)
        assert started["state"] == "started"


async def test_logs_do_not_grow_and_what_is_printed_last_is_kept(
    disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody's VM waits for the disk: each account's own oldest lines give way to its new ones, and
    one that had none has some."""
    monkeypatch.setattr(file, "LITTLE_BYTES", 30_000)
    async with disk.fine() as rig:
        vm_id = (await rig.vm())["id"]
        async with await rig.other_account() as other:
            quiet = (await replace(rig, client=other).vm())["id"]
        lines = [rig.node.line(vm_id, f"old {number} " + "x" * 500) for number in range(200)]
        await rig.node.push(*lines)
        await rig.messages(f"/v1/vm/{vm_id}/logs", 200)
    async with disk.full() as rig, await rig.other_account() as other:
        size = await taken(rig)
        await rig.node.push(rig.node.line(quiet, "first of all"))
        for _ in range(4):
            await rig.node.push(*(rig.node.line(vm_id, "new " + "x" * 500) for _ in range(60)))

        async def all_are_there() -> bool:
            newest = await rig.ok("GET", f"/v1/vm/{vm_id}/logs", params={"order": "newest_first"})
            return newest["lines"][0]["id"] == 440

        await eventually(all_are_there, "the last line is stored")
        assert await taken(rig) <= size
        first, *rest = await rig.messages(f"/v1/vm/{vm_id}/logs", 1)
        assert first == NOTICE
        assert len(rest) > 150
        assert all(message.startswith("new") for message in rest)
        theirs = replace(rig, client=other)
        assert await theirs.messages(f"/v1/vm/{quiet}/logs", 1) == ["first of all"]


async def taken(rig: Rig) -> int:
    """Return what the account's lines take of the log file."""
    log = file.connect(rig.settings.server_dir / "logs.db")
    try:
        return ledger.taken(log, "default")
    finally:
        log.close()


def test_the_doctor_says_so(tmp_path: Path) -> None:
    """In good time, and what comes of it; also before the folder is there."""
    free = free_mb(tmp_path)
    for least, level in (
        (free // 4, Level.OK),
        (free * 2 // 3, Level.WARN),
        (free * 2, Level.FAIL),
    ):
        check = check_store(settings_for(tmp_path, None, min_free_store_mb=least))
        assert (check.level, f"below {least} MB" in check.found) == (level, True)
