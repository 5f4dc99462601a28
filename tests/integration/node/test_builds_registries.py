"""FROM a registry: the real one of Debian, on a free port."""

import asyncio
import gzip
import hashlib
import io
import json
import subprocess
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cakework.domain.facts import BuildFailed, BuildSucceeded
from cakework.domain.orders import BuildOrder
from tests.integration.node.build_bench import NOTHING, Bench, mounted, order
from tests.integration.node.registries import Entry, Layout, Registry, serving, tar_of
from tests.integration.ports import reserved_port

DEADLINE_S = 60


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Run a registry that has the image ``library/small``; give its host:port."""
    folder = tmp_path_factory.mktemp("registry")
    with reserved_port() as port:
        address = f"127.0.0.1:{port}"
        config = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(folder / "storage")}},
            "http": {"addr": address},
        }
        (folder / "config.json").write_text(json.dumps(config))
        with subprocess.Popen(["docker-registry", "serve", str(folder / "config.json")]) as process:
            try:
                _wait_for(f"http://{address}/v2/")
                _push(folder / "layout", f"docker://{address}/library/small")
                yield address
            finally:
                process.terminate()


def test_an_insecure_registry_that_is_named_is_read(
    bench: Bench, registry: str, tmp_path: Path
) -> None:
    """FROM host:port/name works over plain HTTP when insecure_registries has it."""
    wanted = order(f"FROM {registry}/library/small\nCOPY a /a", {"a": "mine"})
    image = bench.image(wanted, insecure_registries=[registry])
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "base.txt").read_text() == "of the registry"
        assert (rootfs / "base.txt").stat().st_uid == 7
        assert (rootfs / "a").read_text() == "mine"
    assert image.config.argv == ("/from-base",)


def test_a_mirror_stands_for_its_registry(bench: Bench, registry: str, tmp_path: Path) -> None:
    """Short names are docker.io's, and docker.io is read from the mirror that is set."""
    image = bench.image(
        order("FROM small\nCOPY a /a", {"a": "x"}),
        registry_mirrors=[f"docker.io={registry}"],
        insecure_registries=[registry],
    )
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "base.txt").exists()


def test_files_are_copied_from_an_image(bench: Bench, registry: str, tmp_path: Path) -> None:
    """COPY --from takes files of an image that no stage is made from."""
    image = bench.image(
        order(f"FROM cakework/busybox\nCOPY --from={registry}/library/small /base.txt /b"),
        insecure_registries=[registry],
    )
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert (rootfs / "b").read_text() == "of the registry"


def test_opaque_folders_of_a_layer_hide_those_below(
    bench: Bench, registry: str, tmp_path: Path
) -> None:
    """A folder that a layer replaces is the layer's alone, also for the build's own steps."""
    below = tar_of([Entry("o", folder=True), Entry("o/old", b"1")])
    top = tar_of([Entry("o", folder=True), Entry("o/.wh..wh..opq"), Entry("o/new", b"2")])
    layout = Layout(tmp_path / "layout")
    layout.index(layout.image([(below, "gzip"), (top, "gzip")]))
    command = ["skopeo", "--insecure-policy", "copy", "-q", "--dest-tls-verify=0"]
    destination = f"docker://{registry}/library/opaque"
    subprocess.run([*command, f"oci:{layout.folder}", destination], check=True)
    wanted = order(f"FROM {registry}/library/opaque\nCOPY a /o/a", {"a": "x"})
    image = bench.image(wanted, insecure_registries=[registry])
    with mounted(image, tmp_path / "rootfs") as rootfs:
        assert {file.name for file in (rootfs / "o").iterdir()} == {"new", "a"}


def test_an_image_that_is_not_there(bench: Bench, registry: str) -> None:
    """The error names the image and says that its registry does not have it."""
    name = f"{registry}/library/none"
    error = bench.error(order(f"FROM {name}"), insecure_registries=[registry])
    assert error == f"base image {name} was not found: there is no such image in its registry"


def test_a_private_registry_that_nobody_named_is_out_of_reach(bench: Bench, registry: str) -> None:
    """A stranger's FROM goes over the build's network, not the host's."""
    error = bench.error(order(f"FROM {registry}/library/small:2"))
    assert error.startswith(f"base image {registry}/library/small:2 was not found")


@pytest.mark.parametrize(
    ("layers", "file_mb"), [(12, 30), (1, 100)], ids=["many layers", "a large file"]
)
def test_a_base_that_is_too_large_is_given_up(
    bench: Bench, tmp_path: Path, layers: int, file_mb: int
) -> None:
    """An image that is small in its registry and large on the disk: the error names it, the bound
    and the setting; nothing stays of it. One that is within the bound is built on."""
    layer = tar_of([Entry("zeros", bytes(file_mb << 20))])
    large, small = Layout(tmp_path / "large"), Layout(tmp_path / "small")
    large.index(large.image([(layer, "zstd")] * layers))
    small.index(small.image([(tar_of([Entry("zeros", bytes(30 << 20))]), "none")]))
    with serving(tmp_path, password=False) as registry:
        bomb = registry.push(large.folder, "team/large:1")
        base = registry.push(small.folder, "team/small:1")
        reach = {"fetch_allow": [registry.address], "extra_ca": registry.ca, "image_size_mb": 64}
        wanted = order(f"FROM {base}\nFROM {bomb}")

        async def run() -> BuildSucceeded | BuildFailed:
            async with bench.open(**reach) as builds:
                await builds.submit(wanted)
                end = await bench.ledger.ended(wanted.build_id)
                async with asyncio.timeout(DEADLINE_S):
                    while bench.unused_layers():  # noqa: ASYNC110
                        await asyncio.sleep(0.05)
                return end

        end = asyncio.run(run())
        assert isinstance(end, BuildFailed)
        assert end.error == (
            f"base image {bomb} is too large: the images that a build fetches from registries may "
            "hold 64 MB; build on a smaller one, or set CAKEWORK_IMAGE_SIZE_MB"
        )
        assert bench.leftovers() == NOTHING
        bench.image(order(f"FROM {base}\nCOPY a /a", {"a": "x"}), **reach)


def test_layers_of_a_pull_that_was_cut_off_go_at_the_next_start(
    bench: Bench, tmp_path: Path
) -> None:
    """Nothing else would remove them: they belong to no image."""

    async def cut_off(registry: Registry, wanted: BuildOrder) -> None:
        """Have it built until some layers are there, or all of it is."""
        reach = {"fetch_allow": [registry.address], "extra_ca": registry.ca}
        async with bench.open(**reach) as builds, asyncio.timeout(DEADLINE_S):
            await builds.submit(wanted)
            while len(bench.unused_layers()) < 3 and not bench.ledger.end(  # noqa: ASYNC110
                wanted.build_id
            ):
                await asyncio.sleep(0.01)

    wanted = order("FROM scratch")
    with serving(tmp_path, password=False) as registry:
        # All of it is there soon, and on a busy machine before anybody looks.
        for attempt in range(5):
            layout = Layout(tmp_path / f"layout{attempt}")
            layer = tar_of([Entry(f"zeros{attempt}", bytes(30 << 20))])
            layout.index(layout.image([(layer, "zstd")] * 12))
            name = registry.push(layout.folder, f"team/app:{attempt}")
            wanted = order(f"FROM {name}\nRUN true")
            asyncio.run(cut_off(registry, wanted))
            if bench.unused_layers():
                break
    assert bench.unused_layers() != set()
    bench.error(wanted)
    assert bench.unused_layers() == set()
    assert bench.leftovers() == NOTHING


def _push(layout: Path, destination: str) -> None:
    """Write an image of one file as an OCI layout, and copy it to the registry."""
    blobs = layout / "blobs" / "sha256"
    blobs.mkdir(parents=True)

    def blob(content: bytes, kind: str) -> dict[str, object]:
        digest = hashlib.sha256(content).hexdigest()
        (blobs / digest).write_bytes(content)
        media_type = f"application/vnd.oci.image.{kind}"
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(content)}

    plain = _layer()
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Entrypoint": ["/from-base"], "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{hashlib.sha256(plain).hexdigest()}"]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": blob(json.dumps(config).encode(), "config.v1+json"),
        "layers": [blob(gzip.compress(plain), "layer.v1.tar+gzip")],
    }
    index = {
        "schemaVersion": 2,
        "manifests": [blob(json.dumps(manifest).encode(), "manifest.v1+json")],
    }
    (layout / "index.json").write_text(json.dumps(index))
    (layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    subprocess.run(
        [
            "skopeo",
            "--insecure-policy",
            "copy",
            "-q",
            "--dest-tls-verify=false",
            f"oci:{layout}",
            destination,
        ],
        check=True,
    )


def _layer() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        content = b"of the registry"
        entry = tarfile.TarInfo("base.txt")
        entry.size, entry.uid, entry.gid = len(content), 7, 7
        tar.addfile(entry, io.BytesIO(content))
    return stream.getvalue()


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while True:
        try:
            with urllib.request.urlopen(url):
                return
        except OSError:
            assert time.monotonic() < deadline
            time.sleep(0.02)
