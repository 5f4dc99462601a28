"""What is over goes: lines, records of VMs, builds and images; and what is not over stays."""

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import func, select

from cakework.domain.ids import AccountId
from cakework.server import app
from cakework.server.clock import now_ms
from cakework.server.loops import retention
from cakework.server.loops.retention import DAY_MS, KeptDays
from cakework.server.services import idempotency
from cakework.server.store.models import IdempotencyRow, ImageRow, VmRow
from cakework.server.store.webhook_models import (
    DeliveryStatus,
    WebhookDeliveryRow,
    WebhookEventRow,
)

from .fake_node import START_MS, FakeNode
from .rig import KEY, Rig, events, eventually, running, settings_for, until

pytestmark = pytest.mark.anyio
FOR_EVER = KeptDays(logs=0, stopped=0, vms=0, builds=0, deliveries=0)
EVERYTHING = KeptDays(logs=14, stopped=0, vms=30, builds=30, deliveries=30)
LONG = 31 * DAY_MS


async def destroyed(rig: Rig, image_id: str, *messages: str) -> str:
    """Have a VM that printed something and is destroyed; return its id."""
    vm_id = (await rig.vm(image_id))["id"]
    await rig.node.push(*(rig.node.line(vm_id, message) for message in messages))
    await rig.messages(f"/v1/vm/{vm_id}/logs", len(messages))
    await rig.ok("POST", f"/v1/vm/{vm_id}/destroy")
    return vm_id


async def test_destroyed_vms_go_with_their_logs(rig: Rig) -> None:
    """When they have been destroyed for so long, and no other: those that run, that stopped,
    that are cached, and whose volume the node still has."""
    image_id = await rig.image()
    gone, held = await destroyed(rig, image_id, "hello"), await destroyed(rig, image_id, "held")
    runs = await rig.vm(image_id)
    cached = await rig.ok("POST", "/v1/vm/cache", json={"imageId": image_id})
    stopped = await rig.vm(image_id)
    await rig.node.stopped(stopped["id"], "The program ended.", 0)
    await rig.eventually(f"/v1/vm/{stopped['id']}", state="stopped")
    rig.node.volumes.add(held)
    await rig.retain(EVERYTHING, now_ms() + LONG - 2 * DAY_MS)
    assert (await rig.ok("GET", f"/v1/vm/{gone}"))["state"] == "destroyed"
    await rig.retain(FOR_EVER, now_ms() + 1000 * LONG)
    assert (await rig.ok("GET", f"/v1/vm/{gone}"))["state"] == "destroyed"
    await rig.retain(EVERYTHING, now_ms() + LONG)
    for path in (f"/v1/vm/{gone}", f"/v1/vm/{gone}/logs"):
        await rig.refused(404, "GET", path)
    listed = {vm["id"] for vm in (await rig.ok("GET", "/v1/vms"))["vms"]}
    assert listed == {held, runs["id"], cached["id"], stopped["id"]}
    rig.node.volumes.clear()
    await rig.retain(EVERYTHING, now_ms() + LONG)
    await rig.refused(404, "GET", f"/v1/vm/{held}")


async def test_vms_whose_program_ended_are_destroyed(rig: Rig) -> None:
    """After so many days and not before, by the same event as stopVM; how they ended stays. Those
    that run and those that are cached stay as they are. Then the image can be deleted."""
    image_id = await rig.image()
    webhook = await rig.ok("POST", "/v1/webhooks", json={"url": "https://nowhere.invalid/"})
    ended, cached = await rig.vm(image_id), await started_and_stopped(rig, image_id)
    await rig.node.stopped(ended["id"], "The program ended.", 7)
    stopped = await rig.eventually(f"/v1/vm/{ended['id']}", state="stopped")
    runs = await rig.vm(image_id)
    days = replace(FOR_EVER, stopped=7)
    for kept, at_ms in ((FOR_EVER, 1000 * LONG), (days, 6 * DAY_MS)):
        await rig.retain(kept, now_ms() + at_ms)
        assert await rig.ok("GET", f"/v1/vm/{ended['id']}") == stopped
    await rig.refused(409, "DELETE", f"/v1/image/{image_id}")
    for _ in range(2):
        await rig.retain(days, now_ms() + 8 * DAY_MS)
    destroyed = await rig.ok("GET", f"/v1/vm/{ended['id']}")
    assert destroyed["updatedAt"] >= stopped["updatedAt"]
    assert destroyed == stopped | {"state": "destroyed", "updatedAt": destroyed["updatedAt"]}
    log = await rig.ok("GET", f"/v1/webhooks/{webhook['id']}/deliveries")
    told = [each["eventType"] for each in log["deliveries"]]
    assert told.count("vm.destroyed") == 1
    assert (await rig.ok("GET", f"/v1/vm/{cached}"))["state"] == "stopped"
    assert (await rig.ok("GET", f"/v1/vm/{runs['id']}"))["state"] == "started"
    for vm_id in (cached, runs["id"]):
        await rig.ok("POST", f"/v1/vm/{vm_id}/destroy")
    assert (await rig.ok("DELETE", f"/v1/image/{image_id}"))["state"] == "deleted"


async def started_and_stopped(rig: Rig, image_id: str) -> str:
    """Have a cached VM that ran; return its id."""
    vm_id = (await rig.ok("POST", "/v1/vm/cache", json={"imageId": image_id}))["id"]
    for step in ("start", "stop"):
        await rig.ok("POST", f"/v1/vm/cached/{vm_id}/{step}")
    return vm_id


async def test_more_than_one_part_goes(rig: Rig) -> None:
    """All that is over goes in one pass, however many there are."""
    image_id = await rig.image()
    first = await destroyed(rig, image_id, "x")
    async with rig.server.database.writing() as session:
        for number in range(450):
            session.add(row_of(f"{number:014x}", image_id))
    await rig.retain(EVERYTHING, now_ms() + LONG)
    assert await rig.ok("GET", "/v1/vms") == {"vms": []}
    await rig.refused(404, "GET", f"/v1/vm/{first}")


async def test_ended_builds_go_and_their_images_stay(rig: Rig) -> None:
    """A build that has not ended stays; an image forgets its build and nothing else."""
    image_id = await rig.image()
    built = rig.node.build_orders[0].build_id
    await rig.node.push(rig.node.build_line(built, "STEP 1"))
    await rig.messages(f"/v1/image/build/{built}/logs", 1)
    failed, unended = (await rig.build())["buildId"], (await rig.build())["buildId"]
    await until(lambda: len(rig.node.build_orders) == 3, "the node has the builds")
    await rig.node.fail(failed, "no")
    await rig.eventually(f"/v1/image/build/{failed}", status="failed")
    (file,) = [each.image_id for each in rig.node.build_orders if each.build_id == failed]
    rig.node.images.add(file)
    image = await rig.ok("GET", f"/v1/image/{image_id}")
    await rig.retain(EVERYTHING, now_ms() + LONG)
    await rig.refused(404, "GET", f"/v1/image/build/{built}")
    await rig.refused(404, "GET", f"/v1/image/build/{built}/logs")
    assert (await rig.ok("GET", f"/v1/image/build/{failed}"))["status"] == "failed"
    assert (await rig.ok("GET", f"/v1/image/build/{unended}"))["status"] == "created"
    assert image.pop("buildId") == built
    assert await rig.ok("GET", f"/v1/image/{image_id}") == image
    assert (await rig.vm(image_id))["state"] == "started"
    rig.node.images.discard(file)
    rig.node.builds.add(failed)
    await rig.retain(EVERYTHING, now_ms() + LONG)
    assert (await rig.ok("GET", f"/v1/image/build/{failed}"))["status"] == "failed"
    rig.node.builds.discard(failed)
    await rig.retain(EVERYTHING, now_ms() + LONG)
    await rig.refused(404, "GET", f"/v1/image/build/{failed}")


async def test_deleted_images_go_when_no_record_has_them(rig: Rig) -> None:
    """After the VMs that were made from them, and once the node has no file of theirs."""
    kept, image_id = await rig.image(), await rig.image()
    vm_id = await destroyed(rig, image_id, "x")
    await rig.ok("DELETE", f"/v1/image/{image_id}")
    await until(lambda: image_id not in rig.node.images, "the file is gone")
    builds = KeptDays(logs=0, stopped=0, vms=0, builds=30, deliveries=0)
    await rig.retain(builds, now_ms() + LONG)
    assert (await rig.ok("GET", f"/v1/image/{image_id}"))["state"] == "deleted"
    await rig.retain(EVERYTHING, now_ms() + LONG)
    await rig.refused(404, "GET", f"/v1/vm/{vm_id}")
    await rig.refused(404, "GET", f"/v1/image/{image_id}")
    async with rig.server.database.reading() as session:
        assert list(await session.scalars(select(ImageRow.id))) == [kept]


async def test_imports_go_with_their_images(rig: Rig) -> None:
    """Failed ones when they are old; one that made an image when that is deleted."""
    body = {"imageUri": "registry.example/app:1", "password": ""}
    ids = [(await rig.ok("POST", "/v1/image/import", json=body))["imageId"] for _ in range(3)]
    kept, gone, failed = ids
    for image_id in (kept, gone):
        await rig.node.imported(image_id)
        await rig.eventually(f"/v1/image/{image_id}", state="ready")
    await rig.node.not_imported(failed, "no")
    await rig.eventually(f"/v1/image/{failed}", state="failed")
    await rig.ok("DELETE", f"/v1/image/{gone}")
    await until(lambda: gone not in rig.node.images, "the file is gone")
    await rig.retain(EVERYTHING, now_ms() + LONG)
    for image_id in (gone, failed):
        await rig.refused(404, "GET", f"/v1/image/{image_id}")
    assert (await rig.ok("GET", f"/v1/image/{kept}"))["imageUri"] == body["imageUri"]


async def test_ended_deliveries_go_with_their_events(rig: Rig) -> None:
    """Those that are pending stay however old they are, and so do their events. One that no
    delivery is left of goes within the hour, however long deliveries are kept."""
    webhook = await rig.ok("POST", "/v1/webhooks", json={"url": "https://example.com/"})
    ended, pending = ["dlv_" + "0" * 26, "dlv_" + "1" * 26]
    async with rig.server.database.writing() as session:
        for number, (key, status) in enumerate(((ended, "failed"), (pending, "pending"))):
            event = WebhookEventRow(id=f"evt{number}", type="vm.started", body="{}", created_ms=1)
            session.add(event)
            await session.flush()
            session.add(
                WebhookDeliveryRow(
                    id=key,
                    endpoint_id=webhook["id"],
                    event_id=event.id,
                    status=status,
                    attempts=1,
                    next_ms=now_ms() + 1000 * LONG if status == "pending" else None,
                    created_ms=1,
                )
            )
        for name, minutes in (("evt2", 61), ("evt3", 59)):
            at_ms = now_ms() - minutes * 60_000
            session.add(WebhookEventRow(id=name, type="vm.started", body="{}", created_ms=at_ms))
    path = f"/v1/webhooks/{webhook['id']}/deliveries"
    await rig.retain(FOR_EVER, now_ms())
    assert len((await rig.ok("GET", path))["deliveries"]) == 2
    async with rig.server.database.reading() as session:
        kept = await session.scalars(select(WebhookEventRow.id).order_by(WebhookEventRow.id))
        assert list(kept) == ["evt0", "evt1", "evt3"]
    await rig.retain(KeptDays(logs=0, stopped=0, vms=0, builds=0, deliveries=30), now_ms())
    assert [each["id"] for each in (await rig.ok("GET", path))["deliveries"]] == [pending]
    async with rig.server.database.reading() as session:
        kept = await session.scalars(select(WebhookEventRow.id).order_by(WebhookEventRow.id))
        assert list(kept) == ["evt1", "evt3"]


async def test_lines_go_by_their_age_also_when_the_node_is_away(folder: Path) -> None:
    """Pages and followers see what is left; numbers go on; records wait for the node."""
    settings = settings_for(folder, None)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            vm_id = (await rig.vm())["id"]
            path = f"/v1/vm/{vm_id}/logs"
            old = [node.line(vm_id, f"old {number}") for number in range(60)]
            late = START_MS + 10 * DAY_MS
            await node.push(*old, *(node.line(vm_id, "new", at_ms=late) for _ in range(60)))
            await rig.messages(path, 120)
            page = await rig.ok("GET", path, params={"batch": 50})
            params = {"batch": 50, "order": "newest_first"}
            newest = await rig.ok("GET", path, params=params)
        days = KeptDays(logs=14, stopped=0, vms=30, builds=30, deliveries=30)
        with pytest.raises(Exception, match="does not answer"):
            await rig.retain(days, START_MS + 15 * DAY_MS)
        again = {"pagination": page["pagination"], "from": page["from"], "to": page["to"]}
        rest = await rig.ok("GET", path, params={"batch": 1000, **again})
        assert [line["id"] for line in rest["lines"]] == list(range(61, 121))
        again = {"pagination": newest["pagination"]}
        rest = await rig.ok("GET", path, params={"batch": 50, **again})
        assert [line["id"] for line in rest["lines"]] == list(range(70, 60, -1))
        async with node.serving():
            follows = rig.client.stream("GET", path, params={"follow": "true"})
            async with follows as response, asyncio.timeout(60):
                await node.push(node.line(vm_id, "last", at_ms=late))
                ids: list[str | None] = []
                async for event in events(response):
                    ids += [event.id] if event.id else []
                    if ids[-1:] == ["121"]:
                        break
            assert ids == [str(number) for number in range(61, 122)]
            await rig.ok("POST", f"/v1/vm/{vm_id}/stop")


async def test_the_settings_say_how_long(
    folder: Path, node: FakeNode, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop of a server that starts later removes by its settings and its clock."""
    monkeypatch.setattr(app, "RETENTION_FIRST_S", 0.0)
    settings = settings_for(folder, None, retain_vms_days=3, retain_stopped_vms_days=2)
    async with running(settings, node) as rig:
        vm_id = await destroyed(rig, await rig.image(), "x")
        ended = (await rig.vm())["id"]
        await node.stopped(ended, "The program ended.", 0)
        await rig.eventually(f"/v1/vm/{ended}", state="stopped")
    async with running(settings, node, lambda: now_ms() + 4 * DAY_MS) as rig:

        async def is_gone() -> bool:
            return (await rig.client.get(f"/v1/vm/{vm_id}")).status_code == 404

        await eventually(is_gone, "the VM's record goes")
        await rig.eventually(f"/v1/vm/{ended}", state="destroyed")


def row_of(vm_id: str, image_id: str) -> VmRow:
    return VmRow(
        id=vm_id,
        account_id="default",
        image_id=image_id,
        hostname=vm_id,
        cpu=1,
        memory_mb=256,
        state="destroyed",
        wanted="destroyed",
        created_ms=1,
        updated_ms=1,
    )


async def test_answers_kept_for_one_account_are_not_without_number(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest go before their day is over; those of another account stay."""
    monkeypatch.setattr(retention, "ANSWERS_MAX", 3)
    other = (await rig.server.keys.create("test", AccountId("other"))).key
    await _made(rig, "others", other)
    first = [await _made(rig, f"key-{number}", KEY) for number in range(5)]
    await rig.retain(FOR_EVER, now_ms())
    again = [await _made(rig, f"key-{number}", KEY) for number in range(5)]
    assert [one == two for one, two in zip(first, again, strict=True)] == [False] * 2 + [True] * 3
    async with rig.server.database.reading() as session:
        keys = [row.key for row in await session.scalars(select(IdempotencyRow))]
    assert "others" in keys


async def test_answers_kept_for_one_account_are_bounded_in_bytes_at_once(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many it has of the largest, and before anything that is over is looked for."""
    monkeypatch.setattr(idempotency, "BYTES_MAX", 2_000)
    monkeypatch.setattr(idempotency, "LOOK_BYTES", 0)
    other = (await rig.server.keys.create("test", AccountId("other"))).key
    others = await _made(rig, "others", other)
    made = [await _made(rig, f"key-{number}", KEY) for number in range(12)]
    of = IdempotencyRow.account_id
    query = select(of, func.sum(func.length(IdempotencyRow.body))).group_by(of)
    async with rig.server.database.reading() as session:
        kept = {row[0]: int(row[1]) for row in await session.execute(query)}
    assert kept.pop("other") > 0
    ((_, size),) = kept.items()
    assert 0 < size <= 2_000
    assert await _made(rig, "others", other) == others
    assert await _made(rig, "key-11", KEY) == made[11]
    assert await _made(rig, "key-0", KEY) != made[0]


async def _made(rig: Rig, key: str, account_key: str) -> str:
    """Make a webhook under an Idempotency-Key; return its id."""
    body = {"url": "https://nowhere.invalid/"}
    headers = {"X-Api-Key": account_key, "Idempotency-Key": key}
    return (await rig.ok("POST", "/v1/webhooks", json=body, headers=headers))["id"]


async def test_deliveries_kept_of_one_endpoint_are_not_without_number(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest that ended go, whatever the setting says; and none that is still to be tried."""
    monkeypatch.setattr(retention, "DELIVERIES_MAX", 2)
    ids = [await _made(rig, f"key-{number}", KEY) for number in range(2)]
    async with rig.server.database.writing() as session:
        for number in range(10):
            ended = number % 2
            event = WebhookEventRow(
                id=f"evt_{number:026}",
                type="vm.started",
                body="{}",
                created_ms=number,
            )
            session.add(event)
            await session.flush()
            session.add(
                WebhookDeliveryRow(
                    id=f"dlv_{number:026}",
                    endpoint_id=ids[0],
                    event_id=event.id,
                    status=DeliveryStatus.FAILED if ended else DeliveryStatus.PENDING,
                    next_ms=None if ended else 2**50,
                    created_ms=number,
                )
            )
    await rig.retain(FOR_EVER, now_ms())
    async with rig.server.database.reading() as session:
        left = sorted(row.created_ms for row in await session.scalars(select(WebhookDeliveryRow)))
        told = sorted(row.created_ms for row in await session.scalars(select(WebhookEventRow)))
    assert left == told == [0, 2, 4, 6, 7, 8, 9]


async def test_records_of_one_account_are_not_without_number(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of VMs, builds, imports and images that ended the oldest go, whatever the settings say, with
    their logs; VMs whose program ended are destroyed then. What has not ended stays, and so does
    all of another account's."""
    monkeypatch.setattr(retention, "RECORDS_MAX", 2)
    async with await rig.other_account() as client:
        theirs = replace(rig, client=client)
        others = await destroyed(theirs, await theirs.image(), "oldest of all")
        image_id, runs = await rig.image(), await rig.vm()
        vms = [await destroyed(rig, image_id, "x") for _ in range(4)]
        builds = [(await rig.build())["buildId"] for _ in range(4)]
        await until(lambda: set(builds) <= rig.node.builds, "the node has the builds")
        for build_id in builds:
            await rig.node.fail(build_id, "no")
            await rig.eventually(f"/v1/image/build/{build_id}", status="failed")
        imports = [await failed_import(rig) for _ in range(4)]
        images = [await rig.image() for _ in range(4)]
        for each in images:
            await rig.ok("DELETE", f"/v1/image/{each}")
        await until(lambda: not rig.node.images & set(images), "the files are gone")
        stopped = [(await rig.vm(image_id))["id"] for _ in range(3)]
        for vm_id in stopped:
            await rig.node.stopped(vm_id, "The program ended.", 0)
            await rig.eventually(f"/v1/vm/{vm_id}", state="stopped")
        await rig.retain(FOR_EVER, now_ms())
        assert (await rig.ok("GET", f"/v1/vm/{stopped[0]}"))["state"] == "destroyed"
        # That it was destroyed is the newest of these; builds that made images are newer, too.
        paths = [f"/v1/vm/{each}" for each in vms[:3]]
        paths += [f"/v1/vm/{each}/logs" for each in vms[:3]]
        paths += [f"/v1/image/build/{each}" for each in builds]
        paths += [f"/v1/image/{each}" for each in imports[:2] + images[:2]]
        for path in paths:
            await rig.refused(404, "GET", path)
        paths = [f"/v1/vm/{each}" for each in (vms[3], runs["id"], *stopped[1:])]
        paths += [f"/v1/image/{each}" for each in (image_id, *imports[2:], *images[2:])]
        for path in paths:
            await rig.ok("GET", path)
        assert await theirs.messages(f"/v1/vm/{others}/logs", 1) == ["oldest of all"]


async def failed_import(rig: Rig) -> str:
    """Have an import that failed; return its image's id."""
    body = {"imageUri": "registry.example/app:1", "password": ""}
    image_id = (await rig.ok("POST", "/v1/image/import", json=body))["imageId"]
    await rig.node.not_imported(image_id, "no")
    await rig.eventually(f"/v1/image/{image_id}", state="failed")
    return image_id
