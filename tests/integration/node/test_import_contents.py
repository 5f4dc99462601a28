"""What images may have in them, and how manifests may name them."""

import asyncio
import io
import json
import os
import ssl
import subprocess
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from cakework.domain.errors import CakeworkError, ImageNotInRegistry, WrongPlatform
from cakework.domain.facts import ImportFailed
from tests.integration.node.build_bench import Bench, mounted
from tests.integration.node.import_bench import ImportBench
from tests.integration.node.registries import (
    DOCKER,
    OCI,
    PASSWORD,
    USERNAME,
    Entry,
    Json,
    Layout,
    serving,
    tar_of,
)
from tests.integration.node.registry_front import BASIC

MIB = 2**20
ESCAPED = f"cakework-escaped-{os.getpid()}"
INDEX = f"{OCI}.index.v1+json"
MANIFEST_LIST = f"{DOCKER}.distribution.manifest.list.v2+json"
CAPABILITY = "\x01\x00\x00\x02\x00\x20\x00\x00" + "\x00" * 12
"""cap_net_raw=ep, as the attribute holds it (struct vfs_cap_data)."""
PLAIN = tar_of([Entry("here", b"yes")])


@pytest.fixture(scope="module")
def imports(bench: Bench, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImportBench]:
    with serving(tmp_path_factory.mktemp("registry")) as registry:
        yield ImportBench(tmp_path_factory.mktemp("imports"), bench.netns, registry)


def of_layers(imports: ImportBench, folder: Path, name: str, *layers: bytes) -> str:
    layout = Layout(folder / "layout")
    image = layout.image([(layer, "gzip") for layer in layers])
    return imports.registry.push(layout.index(image), f"team/{name}:1")


def test_files_of_every_kind(imports: ImportBench, tmp_path: Path) -> None:
    """Capabilities, ids, set-user-id, symbolic links, and times stay. Device nodes are left out:
    a VM has its own."""
    layer = tar_of(
        [
            Entry("ping", b"#!", mode=0o755, xattrs=(("security.capability", CAPABILITY),)),
            Entry("su", b"#!", mode=0o6755, uid=1234),
            Entry("high", b"id", uid=60_000),
            Entry("to", symlink="/ping"),
            Entry("null", device=(1, 3)),
            Entry("sticky", folder=True),
        ]
    )
    reference = of_layers(imports, tmp_path, "kinds", layer)
    with mounted(imports.image(imports.order(reference)), tmp_path / "rootfs") as root:
        assert os.getxattr(root / "ping", "security.capability") == CAPABILITY.encode("latin-1")
        assert ((root / "su").stat().st_uid, (root / "su").stat().st_mode & 0o7777) == (
            1234,
            0o6755,
        )
        assert (root / "high").stat().st_uid == 60_000
        assert (root / "to").readlink() == Path("/ping")
        assert not os.path.lexists(root / "null")


@pytest.mark.parametrize(
    ("name", "evil"),
    [
        ("parent", [Entry(f"../../../../../../tmp/{ESCAPED}", b"out")]),
        ("absolute", [Entry(f"/{ESCAPED}", b"in")]),
        ("link", [Entry("out", symlink="/tmp"), Entry(f"out/{ESCAPED}", b"out")]),
        (
            "upward",
            [Entry("out", symlink="../../../../tmp"), Entry(f"out/{ESCAPED}", b"out")],
        ),
        ("hard", [Entry("out", link="../../../../../etc/hostname")]),
    ],
)
def test_nothing_gets_out_of_an_image(
    imports: ImportBench, tmp_path: Path, name: str, evil: list[Entry]
) -> None:
    """A path that leads elsewhere is refused, or leads into the image; nothing outside changes."""
    reference = of_layers(imports, tmp_path, name, tar_of(evil))
    order = imports.order(reference)
    end = imports.end(order)
    assert not list(Path("/tmp").glob(ESCAPED))
    assert not Path(f"/{ESCAPED}").exists()
    if isinstance(end, ImportFailed):
        assert end.error.startswith(f"{reference} cannot be fetched: ")
        assert imports.images().get(order.image_id) is None
        return
    image = imports.images().get(order.image_id)
    assert image is not None
    with mounted(image, tmp_path / "rootfs") as root:
        escaped = [path.relative_to(root) for path in root.rglob(ESCAPED)]
        assert [str(path) for path in escaped] in (
            [ESCAPED],
            [f"tmp/{ESCAPED}"],
        )


def test_a_layer_larger_than_there_is_memory_for_files(
    imports: ImportBench, tmp_path: Path
) -> None:
    """It is on the disk on its way, and not where the sandbox keeps small files."""
    noise = os.urandom(80 * MIB)
    reference = of_layers(imports, tmp_path, "large", tar_of([Entry("noise", noise)]))
    with mounted(imports.image(imports.order(reference)), tmp_path / "rootfs") as root:
        assert (root / "noise").read_bytes() == noise


def test_a_sparse_file_that_is_huge(imports: ImportBench, tmp_path: Path) -> None:
    """A few bytes of a registry cannot fill the disk: the bound on images holds for what they
    unpack to."""
    reference = of_layers(imports, tmp_path / "huge", "huge", sparse(4096 * MIB))
    small = of_layers(imports, tmp_path / "small", "small", sparse(8 * MIB))
    order = imports.order(reference)
    end = imports.end(order, image_size_mb=256)
    assert isinstance(end, ImportFailed)
    assert end.error == "the image is larger than 256 MB"
    assert imports.images().get(order.image_id) is None
    with mounted(imports.image(imports.order(small)), tmp_path / "rootfs") as root:
        assert (root / "hole").stat().st_size == 8 * MIB
        assert (root / "hole").read_bytes() == bytes(8 * MIB - 1) + b"x"


def sparse(size: int) -> bytes:
    """Return a layer with a file of which all but the last byte is a hole."""
    content = f"1\n{size - 1}\n1\n".encode().ljust(512, b"\0") + b"x"
    info = tarfile.TarInfo("GNUSparseFile.0/hole")
    info.size = len(content)
    info.pax_headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": "hole",
        "GNU.sparse.realsize": str(size),
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def test_an_entry_of_an_old_kind(imports: ImportBench, tmp_path: Path) -> None:
    """Sparse files are taken also as GNU's tar once wrote them."""
    info = tarfile.TarInfo("hole")
    info.type = tarfile.GNUTYPE_SPARSE
    layer = info.tobuf(tarfile.GNU_FORMAT) + bytes(1024)
    reference = of_layers(imports, tmp_path, "old", layer)
    with mounted(imports.image(imports.order(reference)), tmp_path / "rootfs") as root:
        assert (root / "hole").stat().st_size == 0


def put(imports: ImportBench, name: str, manifest: Json, media_type: str) -> str:
    """Put a manifest as it is into the registry; return its reference."""
    request = urllib.request.Request(
        f"https://{imports.registry.address}/v2/{name}/manifests/1",
        data=json.dumps(manifest).encode(),
        headers={"Content-Type": media_type, "Authorization": BASIC},
        method="PUT",
    )
    context = ssl.create_default_context(cafile=str(imports.registry.ca))
    with urllib.request.urlopen(request, context=context):
        return f"{imports.registry.address}/{name}:1"


def of_registry(imports: ImportBench, name: str, tag: str) -> Json:
    """Return a manifest as the registry has it."""
    request = urllib.request.Request(
        f"https://{imports.registry.address}/v2/{name}/manifests/{tag}",
        headers={"Accept": f"{MANIFEST_LIST}, {INDEX}", "Authorization": BASIC},
    )
    context = ssl.create_default_context(cafile=str(imports.registry.ca))
    with urllib.request.urlopen(request, context=context) as answer:
        return json.load(answer)


def index_of(*manifests: Json) -> Json:
    return {"schemaVersion": 2, "mediaType": INDEX, "manifests": list(manifests)}


def refusal(imports: ImportBench, reference: str) -> CakeworkError:
    async def run() -> CakeworkError:
        async with imports.open() as opened:
            with pytest.raises(CakeworkError) as refused:
                await opened.take(imports.order(reference))
            return refused.value

    return asyncio.run(run())


def test_an_index_with_attestations(imports: ImportBench, tmp_path: Path) -> None:
    """What buildx adds to an index, for no platform that there is, is not taken for the image."""
    layout = Layout(tmp_path / "layout")
    ours = layout.image([(PLAIN, "gzip")])
    attestation = {
        **layout.image([(tar_of([Entry("statement", b"{}")]), "gzip")]),
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": ours["digest"],
        },
    }
    reference = imports.registry.push(layout.index(attestation, ours), "team/attested:1")
    with mounted(imports.image(imports.order(reference)), tmp_path / "rootfs") as root:
        assert [path.name for path in root.iterdir()] == ["here"]


def test_a_manifest_list_of_dockers(imports: ImportBench, tmp_path: Path) -> None:
    """What `docker manifest` and older builders make: our platform's image is taken of it."""
    layout = Layout(tmp_path / "layout")
    ours = layout.image([(PLAIN, "gzip")])
    theirs = layout.image([(tar_of([Entry("other", b"arm")]), "gzip")], "arm64")
    reference = f"{imports.registry.address}/team/list:1"
    command = ["skopeo", "--insecure-policy", "copy", "--quiet", "--all", "--format=v2s2"]
    command += ["--dest-tls-verify=0", f"--dest-creds={USERNAME}:{PASSWORD}"]
    command += [f"oci:{layout.index(theirs, ours)}", f"docker://{reference}"]
    subprocess.run(command, check=True)
    assert of_registry(imports, "team/list", "1")["mediaType"] == MANIFEST_LIST
    with mounted(imports.image(imports.order(reference)), tmp_path / "rootfs") as root:
        assert [path.name for path in root.iterdir()] == ["here"]


def test_an_image_named_by_its_digest(imports: ImportBench, tmp_path: Path) -> None:
    """It is that one, whatever its tag names by now; of an index, our platform's; and one that
    the registry does not have is told at once."""
    layout = Layout(tmp_path / "layout")
    ours, theirs = (layout.image([(PLAIN, "gzip")], arch) for arch in ("amd64", "arm64"))
    reference = imports.registry.push(layout.index(ours, theirs), "team/digest:1")
    name = reference.removesuffix(":1")
    (index,) = json.loads((layout.folder / "index.json").read_bytes())["manifests"]
    of_layers(imports, tmp_path / "later", "digest", tar_of([Entry("later", b"yes")]))
    for number, digest in enumerate((index["digest"], ours["digest"])):
        image = imports.image(imports.order(f"{name}@{digest}"))
        with mounted(image, tmp_path / f"rootfs{number}") as root:
            assert [path.name for path in root.iterdir()] == ["here"]
    assert isinstance(refusal(imports, f"{name}@{theirs['digest']}"), WrongPlatform)
    missing = refusal(imports, f"{name}@sha256:{'0' * 64}")
    assert isinstance(missing, ImageNotInRegistry)


@pytest.mark.parametrize("first", ["mark", "folder"])
def test_a_folder_that_is_taken_away(imports: ImportBench, tmp_path: Path, first: str) -> None:
    """Nothing that it held is there; of one that the same layer makes anew there is what that
    layer puts into it, wherever in the layer the mark stands."""
    below = tar_of(
        [
            *(Entry(name, folder=True) for name in ("kept", "gone", "gone/deep", "anew")),
            *(Entry(f"{name}/old", b"below") for name in ("kept", "gone", "gone/deep", "anew")),
        ]
    )
    anew = [Entry("anew", folder=True), Entry("anew/new", b"above")]
    marks = [Entry(".wh.gone"), Entry(".wh.anew")]
    above = tar_of([*marks, *anew] if first == "mark" else [*anew, *marks])
    reference = of_layers(imports, tmp_path, f"taken-{first}", below, above)
    with mounted(imports.image(imports.order(reference)), tmp_path / "rootfs") as root:
        assert sorted(path.name for path in root.iterdir()) == ["anew", "kept"]
        assert [path.name for path in (root / "anew").iterdir()] == ["new"]
        assert [path.name for path in (root / "kept").iterdir()] == ["old"]


def test_an_index_without_our_platform(imports: ImportBench, tmp_path: Path) -> None:
    """It is told at once that there is none for it."""
    layout = Layout(tmp_path / "layout")
    others = [layout.image([(PLAIN, "gzip")], arch) for arch in ("arm64", "s390x")]
    reference = imports.registry.push(layout.index(*others), "team/others:1")
    error = refusal(imports, reference)
    assert isinstance(error, WrongPlatform)
    assert error.detail == f"{reference}: it is not for linux/amd64."


def test_an_index_in_an_index(imports: ImportBench, tmp_path: Path) -> None:
    """Hardly any tool makes them; the error says what it is."""
    layout = Layout(tmp_path / "layout")
    ours, theirs = (layout.image([(PLAIN, "gzip")], arch) for arch in ("amd64", "arm64"))
    imports.registry.push(layout.index(ours, theirs), "team/nested:1")
    inner = json.dumps(index_of(ours, theirs)).encode()
    described = {**layout.blob(inner, INDEX), "platform": ours["platform"]}
    reference = put(imports, "team/nested", index_of(described), INDEX)
    end = imports.end(imports.order(reference))
    assert isinstance(end, ImportFailed)
    assert end.error == f"{reference}: it is an index within an index, which is not taken"


def test_layers_that_are_not_compressed(imports: ImportBench, tmp_path: Path) -> None:
    """A plain tar is a layer too."""
    layout = Layout(tmp_path / "layout")
    image = layout.image([(PLAIN, "none"), (tar_of([Entry("too", b"yes")]), "gzip")])
    reference = imports.registry.push(layout.index(image), "team/plain:1")
    with mounted(imports.image(imports.order(reference)), tmp_path / "rootfs") as root:
        assert sorted(path.name for path in root.iterdir()) == ["here", "too"]
