"""listImages, getImage and deleteImage through HTTP, and what goes from the node after."""

import asyncio
from pathlib import Path

import pytest
from sqlalchemy import select

from cakework.domain.ids import AccountId, ImageId, new_image_id, new_vm_id
from cakework.domain.vms import Shape
from cakework.server.clock import now_ms
from cakework.server.loops.leftovers import LeftoverLoop
from cakework.server.services.new_vms import NewVm, VmRules
from cakework.server.services.vm_admission import VmAdmission, VmLimits
from cakework.server.services.vm_orders import VmOrders
from cakework.server.store.models import ImageRow, ImportRow

from .fake_node import FakeNode
from .rig import Json, Rig, running, settings_for, until

pytestmark = pytest.mark.anyio
URI = "registry.example/team/app:1.2"


async def imported(rig: Rig) -> str:
    body = {"imageUri": URI, "password": "of the registry"}
    return (await rig.ok("POST", "/v1/image/import", json=body))["imageId"]


async def look(rig: Rig, image_id: str) -> Json:
    return await rig.ok("GET", f"/v1/image/{image_id}")


async def ids(rig: Rig) -> list[str]:
    return [image["imageId"] for image in (await rig.ok("GET", "/v1/images"))["images"]]


async def clear(rig: Rig) -> None:
    await LeftoverLoop(rig.server.database, rig.server.node).one_pass()


async def test_an_image_of_a_build_says_what_it_is(rig: Rig) -> None:
    """Every field, the same in the list; a build that has not ended has no image yet."""
    image_id = await rig.image()
    order = rig.node.build_orders[0]
    image = await look(rig, image_id)
    assert image.pop("createdAt") == image.pop("updatedAt")
    assert image == {
        "imageId": image_id,
        "source": "files",
        "state": "ready",
        "sizeBytes": 1000,
        "buildId": order.build_id,
    }
    await rig.build()
    await until(lambda: len(rig.node.build_orders) == 2, "the node has the second build")
    assert await rig.ok("GET", "/v1/images") == {"images": [await look(rig, image_id)]}
    await rig.refused(404, "GET", f"/v1/image/{rig.node.build_orders[1].image_id}")


async def test_an_import_can_be_watched(rig: Rig) -> None:
    """Importing, then ready with its size, or failed with why; never with its password."""
    image_id = await imported(rig)
    image = await look(rig, image_id)
    assert image["updatedAt"] == image["createdAt"]
    known = {"imageId": image_id, "source": "import", "imageUri": URI}
    assert known.items() <= image.items()
    assert (image["state"], "sizeBytes" in image) == ("importing", False)
    await rig.refused(409, "DELETE", f"/v1/image/{image_id}")
    await rig.node.imported(image_id)
    ready = await rig.eventually(f"/v1/image/{image_id}", state="ready", sizeBytes=1000)
    assert ready["createdAt"] == image["createdAt"]
    other = await imported(rig)
    await rig.node.not_imported(other, "the disk for images is full")
    failed = await rig.eventually(f"/v1/image/{other}", state="failed")
    assert failed["error"] == "the disk for images is full"
    assert await rig.ok("GET", "/v1/images") == {"images": [failed, ready]}


async def test_an_image_that_a_vm_uses_is_not_deleted(rig: Rig) -> None:
    """409 names the VM, be it started, stopped or cached; once all are destroyed it goes, file
    and all, for good: again changes nothing, and no VM is started from it."""
    image_id = await rig.image()
    path, before = f"/v1/image/{image_id}", await look(rig, await rig.image())
    started = await rig.vm(image_id)
    cached = await rig.ok("POST", "/v1/vm/cache", json={"imageId": image_id})
    stopped = await rig.vm(image_id)
    await rig.node.stopped(stopped["id"], "The program ended.", 0)
    await rig.eventually(f"/v1/vm/{stopped['id']}", state="stopped")
    for vm in sorted((started, cached, stopped), key=lambda vm: vm["id"]):
        problem = await rig.refused(409, "DELETE", path)
        assert problem["code"] == "conflict"
        assert vm["id"] in problem["detail"]
        assert (await look(rig, image_id))["state"] == "ready"
        await rig.ok("POST", f"/v1/vm/{vm['id']}/destroy")
    deleted = await rig.ok("DELETE", path)
    assert deleted["state"] == "deleted"
    await until(lambda: image_id not in rig.node.images, "its file is gone")
    assert await rig.ok("DELETE", path) == deleted == await look(rig, image_id)
    assert await rig.ok("GET", "/v1/images") == {"images": [before]}
    assert before["imageId"] in rig.node.images
    for call in ("start", "cache"):
        await rig.refused(404, "POST", f"/v1/vm/{call}", json={"imageId": image_id})
    assert (await rig.ok("GET", f"/v1/vm/{cached['id']}"))["imageId"] == image_id


async def test_what_failed_to_be_imported_can_be_deleted(rig: Rig) -> None:
    """It leaves the list; a start is told that there is no such image."""
    image_id = await imported(rig)
    await rig.node.not_imported(image_id, "no")
    await rig.eventually(f"/v1/image/{image_id}", state="failed")
    for _ in range(2):
        assert (await rig.ok("DELETE", f"/v1/image/{image_id}"))["state"] == "deleted"
    assert await ids(rig) == []
    await rig.refused(404, "POST", "/v1/vm/start", json={"imageId": image_id})


async def test_another_account_has_no_part_in_it(rig: Rig) -> None:
    """404 to look and to delete, nothing in the list; the image stays."""
    image_id = await rig.image()
    async with await rig.other_account() as theirs:
        for method in ("GET", "DELETE"):
            assert (await theirs.request(method, f"/v1/image/{image_id}")).status_code == 404
        assert (await theirs.get("/v1/images")).json() == {"images": []}
    assert (await look(rig, image_id))["state"] == "ready"
    await rig.refused(404, "DELETE", f"/v1/image/{new_image_id()}")
    await rig.refused(404, "DELETE", "/v1/image/nonsense")


async def test_delete_and_starts_at_once_agree(rig: Rig) -> None:
    """Whichever comes first: a VM has its image, or the start and the cache find none."""
    for _ in range(4):
        image_id = await rig.image()
        body = {"imageId": image_id}
        start, cache, delete = await asyncio.gather(
            rig.client.post("/v1/vm/start", json=body),
            rig.client.post("/v1/vm/cache", json=body),
            rig.client.delete(f"/v1/image/{image_id}"),
        )
        made = [answer for answer in (start, cache) if answer.status_code == 200]
        assert {start.status_code, cache.status_code} <= {200, 404}
        assert delete.status_code == (409 if made else 200)
        assert (await look(rig, image_id))["state"] == ("ready" if made else "deleted")


async def test_a_delete_waits_for_a_start_that_found_the_image(rig: Rig) -> None:
    """A VM that is being recorded has its image for good: the delete sees it and is refused."""
    account, image_id = AccountId("default"), await rig.image()
    new = NewVm(ImageId(image_id), Shape())
    orders = VmOrders(rig.server.sealer, rig.server.log_store.last_seq)
    rules = VmRules(VmAdmission(VmLimits(1, 1, 1)), orders, "example.com")
    async with rig.server.database.writing() as session:
        await rules.admission.check_image(session, account, new.image_id)
        delete = asyncio.create_task(rig.client.delete(f"/v1/image/{image_id}"))
        done, _ = await asyncio.wait({delete}, timeout=1.0)
        assert not done
        vm = rules.new_row(account, new_vm_id(), new)
        session.add(vm)
    answer = await delete
    assert answer.status_code == 409
    assert vm.id in answer.json()["detail"]


async def test_a_file_goes_also_when_the_node_is_away(
    folder: Path, database_url: str | None
) -> None:
    """Deleted while the node was down and the server died after: gone once both are back."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        async with node.serving():
            kept, image_id = await rig.image(), await rig.image()
        await rig.ok("DELETE", f"/v1/image/{image_id}")
    assert node.images == {kept, image_id}
    async with node.serving(), running(settings, node):
        await until(lambda: node.images == {kept}, "the file is gone")


async def test_only_what_is_on_record_as_gone_goes(rig: Rig) -> None:
    """Images of cancelled builds and failed imports, volumes of destroyed VMs; not what is in
    use or on its way, and not what this store never heard of."""
    node = rig.node
    kept = await rig.image()
    vm = await rig.ok("POST", "/v1/vm/cache", json={"imageId": kept, "volumeGB": 1})
    gone = await rig.ok("POST", "/v1/vm/cache", json={"imageId": kept, "volumeGB": 1})
    await rig.ok("POST", f"/v1/vm/{gone['id']}/destroy")
    cancelled = (await rig.build())["buildId"]
    await rig.ok("POST", f"/v1/image/build/{cancelled}/cancel")
    await rig.build()
    await until(lambda: len(node.build_orders) >= 2, "the node has the builds")
    importing, failed = await imported(rig), await imported(rig)
    await node.not_imported(failed, "no")
    await rig.eventually(f"/v1/image/{failed}", state="failed")
    building = [order.image_id for order in node.build_orders if order.build_id != cancelled]
    strange_image, strange_volume = new_image_id(), new_vm_id()
    left_there = {*building, importing, strange_image}
    node.images |= {*(order.image_id for order in node.build_orders), *left_there, failed}
    node.volumes |= {vm["id"], gone["id"], strange_volume}
    await clear(rig)
    assert node.images == left_there
    assert node.volumes == {vm["id"], strange_volume}


async def test_a_new_store_removes_nothing(folder: Path, node: FakeNode) -> None:
    """A server that was put back to nothing leaves the images and volumes it does not know."""
    images, volumes = {new_image_id(), new_image_id()}, {new_vm_id()}
    node.images |= images
    node.volumes |= volumes
    async with running(settings_for(folder, None), node) as rig:
        await clear(rig)
        await rig.image()
    assert node.images > images
    assert node.volumes == volumes


async def test_one_that_cannot_be_removed_holds_up_no_other(rig: Rig) -> None:
    """A volume that the node says is in use stays for now; the others go."""
    image_id = await rig.image()
    vms = [
        await rig.ok("POST", "/v1/vm/cache", json={"imageId": image_id, "volumeGB": 1})
        for _ in range(2)
    ]
    for vm in vms:
        await rig.ok("POST", f"/v1/vm/{vm['id']}/destroy")
        rig.node.volumes.add(vm["id"])
    used = vms[0]["id"]
    rig.node.in_use.add(used)
    await clear(rig)
    assert rig.node.volumes == {used}
    rig.node.in_use.clear()
    await clear(rig)
    assert rig.node.volumes == set()


async def test_an_import_that_was_not_answered_is_nobodys(
    folder: Path, database_url: str | None
) -> None:
    """Nobody has its id: it is in no list, and what comes of it all the same goes."""
    settings = settings_for(folder, database_url)
    node = FakeNode(settings.node_socket)
    async with running(settings, node) as rig:
        body = {"imageUri": URI, "password": ""}
        await rig.refused(503, "POST", "/v1/image/import", json=body)
        assert await ids(rig) == []
        image_id = await only_import(rig)
        node.images.add(image_id)
        async with node.serving():
            await rig.refused(404, "POST", "/v1/vm/start", json={"imageId": image_id})
            await clear(rig)
        assert node.images == set()


async def only_import(rig: Rig) -> str:
    async with rig.server.database.reading() as session:
        (found,) = await session.scalars(select(ImportRow.id))
    return found


async def test_images_are_listed_newest_first_in_pages(rig: Rig) -> None:
    """Builds' and imports' in one list, each once, also when more come and go in between."""
    hour_ago = now_ms() - 3600 * 1000
    made = [(ImageId(new_image_id()), hour_ago + number // 3) for number in range(230)]
    async with rig.server.database.writing() as session:
        for number, (image_id, created_ms) in enumerate(made):
            session.add(row_of(image_id, created_ms, imported=number % 2 == 0))
    await rig.ok("DELETE", f"/v1/image/{made[7][0]}")
    expected = [key for key, _ in sorted(made, key=lambda each: (each[1], each[0]), reverse=True)]
    expected.remove(made[7][0])
    found: list[str] = []
    params: dict[str, str] = {}
    while True:
        page = await rig.ok("GET", "/v1/images", params=params)
        found += [image["imageId"] for image in page["images"]]
        if "pagination" not in page:
            break
        assert len(page["images"]) == 100
        params = {"pagination": page["pagination"]}
        await rig.image()
        await rig.ok("DELETE", f"/v1/image/{found[-1]}")
    assert found == expected
    await rig.refused(400, "GET", "/v1/images", params={"pagination": "x"})


def row_of(image_id: ImageId, created_ms: int, *, imported: bool) -> ImageRow | ImportRow:
    account = AccountId("default")
    if imported:
        return ImportRow(
            id=image_id,
            account_id=account,
            image_uri=URI,
            status="failed",
            error="no",
            created_ms=created_ms,
            updated_ms=created_ms,
        )
    return ImageRow(
        id=image_id, account_id=account, source="files", size_bytes=1, created_ms=created_ms
    )
