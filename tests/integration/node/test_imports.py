"""Images from a real registry, behind a password and TLS."""

import asyncio
import base64
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cakework.domain.errors import (
    CakeworkError,
    ImageNotInRegistry,
    NotFound,
    RegistryDenied,
    RegistryUnreachable,
    WrongPlatform,
)
from cakework.domain.facts import ImportFailed, ImportSucceeded
from cakework.node.imports.imports import CUT_OFF
from tests.integration.node.build_bench import Bench, mounted, processes_in
from tests.integration.node.import_bench import ImportBench
from tests.integration.node.registries import PASSWORD, USERNAME, Entry, Layout, serving, tar_of

BASE = tar_of(
    [
        Entry("srv", folder=True),
        Entry("srv/kept", b"base"),
        Entry("srv/gone", b"base"),
        Entry("srv/changed", b"base"),
        Entry("opaque", folder=True),
        Entry("opaque/old", b"base"),
        Entry("run", b"#!/bin/sh\n", mode=0o4755, uid=7, xattrs=(("user.note", "kept"),)),
        Entry("run-too", link="run", mode=0o4755, uid=7),
    ]
)
TOP = tar_of(
    [
        Entry("srv/.wh.gone"),
        Entry("srv/changed", b"top"),
        Entry("opaque", folder=True),
        Entry("opaque/.wh..wh..opq"),
        Entry("opaque/new", b"top"),
    ]
)


@pytest.fixture(scope="module")
def imports(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportBench]:
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        yield ImportBench(tmp_path_factory.mktemp("imports"), bench.netns, registry)


@pytest.fixture(scope="module")
def app(imports: ImportBench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """An index of two platforms; ours has a layer of each compression."""
    layout = Layout(tmp_path_factory.mktemp("app") / "layout")
    ours = layout.image([(BASE, "gzip"), (TOP, "zstd")])
    theirs = layout.image([(tar_of([Entry("other", b"arm")]), "gzip")], "arm64")
    return imports.registry.push(layout.index(theirs, ours), "team/app:1")


@pytest.fixture(scope="module")
def foreign(imports: ImportBench, tmp_path_factory: pytest.TempPathFactory) -> str:
    """One image, for another platform than ours."""
    layout = Layout(tmp_path_factory.mktemp("foreign") / "layout")
    return imports.registry.push(layout.index(layout.image([(BASE, "gzip")], "arm64")), "arm:1")


def refusal(imports: ImportBench, reference: str, password: str = PASSWORD, **changes: object):
    """Return the error that an order for ``reference`` is refused with at once."""
    order = imports.order(reference, password)

    async def run() -> CakeworkError:
        async with imports.open(**changes) as opened:
            with pytest.raises(CakeworkError) as refused:
                await opened.take(order)
            with pytest.raises(NotFound):
                opened.report(order.image_id)
            return refused.value

    return asyncio.run(run())


def test_an_image_is_imported_as_it_is(imports: ImportBench, app: str, tmp_path: Path) -> None:
    """Of an index, our platform; gzip and zstd layers over each other; whiteouts, links, ids."""
    image = imports.image(imports.order(app))
    with mounted(image, tmp_path / "rootfs") as root:
        assert (root / "srv" / "kept").read_text() == "base"
        assert (root / "srv" / "changed").read_text() == "top"
        assert {file.name for file in (root / "srv").iterdir()} == {"changed", "kept"}
        assert [file.name for file in (root / "opaque").iterdir()] == ["new"]
        run, too = (root / "run").stat(), (root / "run-too").stat()
        assert (run.st_ino, run.st_nlink) == (too.st_ino, 2)
        assert (run.st_uid, run.st_mode & 0o7777) == (7, 0o4755)
        assert os.getxattr(root / "run", "user.note") == b"kept"
        assert not (root / "other").exists()
    assert image.config.argv == ("/run",)
    assert image.config.env == ("PATH=/bin",)
    assert image.config.cwd == "/srv"


def test_docker_manifests_are_read(imports: ImportBench, tmp_path: Path) -> None:
    """An image with a manifest in Docker's own format is imported alike."""
    name = f"{imports.registry.address}/team/docker:1"
    command = ["skopeo", "--insecure-policy", "copy", "-q", "--format=v2s2"]
    command += ["--dest-tls-verify=0", f"--dest-creds=AWS:{PASSWORD}"]
    layout = Layout(tmp_path / "layout")
    plain = layout.index(layout.image([(tar_of([Entry("a", b"docker")]), "gzip")]))
    subprocess.run([*command, f"oci:{plain}", f"docker://{name}"], check=True)
    with mounted(imports.image(imports.order(name)), tmp_path / "rootfs") as root:
        assert (root / "a").read_text() == "docker"


def test_a_wrong_password_is_told_at_once(imports: ImportBench, app: str) -> None:
    """So is none; and nothing is kept of the order."""
    for password in ("wrong", ""):
        error = refusal(imports, app, password)
        assert isinstance(error, RegistryDenied)
        assert "does not take the user name and password" in error.detail


def test_what_is_not_there_is_told_at_once(imports: ImportBench, app: str) -> None:
    """Neither a name nor a tag that the registry does not have is imported."""
    for reference in (f"{imports.registry.address}/team/none:1", f"{app}.2"):
        assert isinstance(refusal(imports, reference), ImageNotInRegistry)


def test_another_platform_is_told_at_once(imports: ImportBench, foreign: str) -> None:
    """The error says which it is for."""
    error = refusal(imports, foreign)
    assert isinstance(error, WrongPlatform)
    assert "it is for linux/arm64, not for linux/amd64" in error.detail


def test_only_allowed_addresses_are_reached(imports: ImportBench, app: str) -> None:
    """A registry on the host that no setting names is out of reach, whatever the password."""
    error = refusal(imports, app, fetch_allow=[])
    assert isinstance(error, RegistryUnreachable)


def test_certificates_are_checked(imports: ImportBench, app: str) -> None:
    """Without the setting, a certificate of an authority of one's own is not trusted."""
    error = refusal(imports, app, extra_ca=None)
    assert isinstance(error, RegistryUnreachable)
    assert "a certificate that is not trusted" in error.detail


def test_an_image_that_is_too_large_fails(imports: ImportBench, tmp_path: Path) -> None:
    """The bound on images holds for what is imported, however well it is compressed."""
    layout = Layout(tmp_path / "layout")
    large = tar_of([Entry("zeros", bytes(80 * 2**20))])
    reference = imports.registry.push(layout.index(layout.image([(large, "gzip")])), "large:1")
    end = imports.end(imports.order(reference), image_size_mb=64)
    assert isinstance(end, ImportFailed)
    assert end.error == "the image is larger than 64 MB"


def test_an_import_leaves_the_disk_to_vms(imports: ImportBench, app: str) -> None:
    """It is ended, as a build is, while the disk is not so full that a VM would be."""
    disk = os.statvfs(imports.registry.ca)
    free_mb = disk.f_bavail * disk.f_frsize >> 20
    end = imports.end(imports.order(app), min_free_disk_mb=free_mb * 19 // 10)
    assert isinstance(end, ImportFailed)
    assert end.error == "the disk for builds is full"


def test_nothing_is_left_of_an_import(imports: ImportBench, app: str) -> None:
    """No folder, no layer, no process; and the password is in no file."""
    order = imports.order(app)
    imports.image(order)
    home = imports.settings().node_dir / "imports"
    assert list((home / "work").iterdir()) == []
    assert not [name for name in ("bases", "layers", "storage") if (home / name).exists()]
    assert processes_in(home) == []
    marks = (PASSWORD.encode(), base64.b64encode(f"{USERNAME}:{PASSWORD}".encode()))
    kept = [file.read_bytes() for file in imports.data_dir.rglob("*") if file.is_file()]
    assert kept
    assert not [content for content in kept if any(mark in content for mark in marks)]
    assert PASSWORD not in repr(order)


def test_an_import_that_was_cut_off_ends_truthfully(imports: ImportBench, app: str) -> None:
    """A node that ends meanwhile has no password any more: it fails, once, and says what to do."""
    order = imports.order(app)

    async def run() -> None:
        async with imports.open() as opened:
            await opened.take(order)
            assert opened.report(order.image_id).state == "importing"
        assert imports.ledger.facts == []
        async with imports.open() as opened:
            end = await imports.ledger.ended(order.image_id)
            assert isinstance(end, ImportFailed)
            assert end.error == CUT_OFF
            await opened.take(order)
            assert opened.report(order.image_id).state == "failed"
        async with imports.open():
            assert imports.ledger.facts == []

    asyncio.run(run())
    assert imports.images().get(order.image_id) is None


def test_an_order_given_twice_is_carried_out_once(imports: ImportBench, app: str) -> None:
    """The second time it is taken, and nothing is done."""
    order = imports.order(app)

    async def run() -> None:
        async with imports.open() as opened:
            await opened.take(order)
            await opened.take(order)
            assert isinstance(await imports.ledger.ended(order.image_id), ImportSucceeded)
            await opened.take(order)
        assert len(imports.ledger.facts) == 1

    asyncio.run(run())
