import asyncio
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import update

from cakework.domain.ids import AccountId, new_vm_id
from cakework.server.app import Server, build_server
from cakework.server.services.vms import Place, VmFilter
from cakework.server.store.models import BuildRow, ImageRow, VmRow
from tests.properties import examples

from .fake_node import FakeNode
from .rig import Rig, running, settings_for

ACCOUNT = AccountId("default")
IMAGE = "0" * 26


async def record(server: Server, created_ms: list[int], image_id: str = IMAGE) -> list[str]:
    """Put VMs on record as made at these times, and over; returns their ids."""
    rows = [
        VmRow(
            id=new_vm_id(),
            account_id=ACCOUNT,
            image_id=image_id,
            hostname=new_vm_id(),
            cpu=1,
            memory_mb=256,
            volume_gb=0,
            state="destroyed",
            wanted="destroyed",
            log_complete=False,
            created_ms=at,
            updated_ms=at,
        )
        for at in created_ms
    ]
    async with server.database.writing() as session:
        session.add_all(rows)
    return [row.id for row in rows]


async def prepare(server: Server) -> None:
    """Open the store and put an image on record."""
    server.settings.server_dir.mkdir(parents=True)
    await server.database.open()
    await server.keys.configure(None)
    async with server.database.writing() as session:
        build = {"account_id": ACCOUNT, "image_id": IMAGE, "created_ms": 0, "updated_ms": 0}
        session.add(BuildRow(id="b", **build))
        await session.flush()
        session.add(
            ImageRow(
                id=IMAGE,
                account_id=ACCOUNT,
                build_id="b",
                source="files",
                size_bytes=0,
                created_ms=0,
            )
        )


@settings(max_examples=examples(8))
@given(
    first=st.lists(st.integers(0, 5), min_size=90, max_size=260),
    later=st.lists(st.lists(st.integers(0, 8), max_size=60), max_size=4),
)
def test_listing_while_vms_come_neither_repeats_nor_loses(
    first: list[int], later: list[list[int]]
) -> None:
    """Page by page, while VMs come and change state: every VM that was there at the first page
    is listed exactly once, newest first, and none twice."""

    async def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            server = build_server(settings_for(Path(folder), None))
            await prepare(server)
            there = set(await record(server, first))
            seen: list[tuple[int, str]] = []
            place: Place | None = None
            for step in range(100):
                rows, place = await server.vms.page(ACCOUNT, VmFilter(), place)
                seen += [(row.created_ms, row.id) for row in rows]
                if place is None:
                    break
                await record(server, later[step] if step < len(later) else [])
                async with server.database.writing() as session:
                    await session.execute(update(VmRow).values(reason="changed"))
            ids = [vm_id for _, vm_id in seen]
            assert len(ids) == len(set(ids))
            assert there <= set(ids)
            assert seen == sorted(seen, reverse=True)
            await server.database.close()
            await server.node.close()

    asyncio.run(run())


@pytest.mark.anyio
async def test_pages_of_vms_follow_each_other(
    folder: Path, node: FakeNode, database_url: str | None
) -> None:
    """More than a hundred VMs come in pages; a token that is none gets 400."""
    async with running(settings_for(folder, database_url), node) as rig:
        await check_pages(rig)


async def check_pages(rig: Rig) -> None:
    vm_ids = await record(rig.server, [at // 3 for at in range(105)], await rig.image())
    first = await rig.ok("GET", "/v1/vms")
    assert len(first["vms"]) == 100
    second = await rig.ok("GET", "/vms", params={"pagination": first["pagination"]})
    assert "pagination" not in second
    listed = [vm["id"] for vm in first["vms"] + second["vms"]]
    assert sorted(listed) == sorted(vm_ids)
    created = [vm["createdAt"] for vm in first["vms"] + second["vms"]]
    assert created == sorted(created, reverse=True)
    for token in ("x", "eyJ", "é", "x" * 201, first["pagination"][:-3]):
        problem = await rig.refused(400, "GET", "/v1/vms", params={"pagination": token})
        assert problem["errors"][0]["field"] == "pagination"
