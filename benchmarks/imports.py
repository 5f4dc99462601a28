"""An import of a 300 MB image, against skopeo and tar putting it into a folder by hand."""

import contextlib
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterator
from functools import partial
from pathlib import Path

from tests.acceptance.waiting import until
from tests.integration.node.registries import (
    PASSWORD,
    USERNAME,
    Entry,
    Layout,
    Registry,
    tar_of,
)

from benchmarks.comparison import Comparison, Taken
from benchmarks.site import Site

IMAGE_BYTES, LAYERS = 300 << 20, 4
OF_THIS_MACHINE = Path("/usr")
END_S = 600
TURNS = 5
PHASES = {
    "fetch_s": "node: fetched and unpacked",
    "erofs_s": "node: EROFS",
    "store_s": "node: image stored",
}


@contextlib.contextmanager
def imported(site: Site) -> Generator[Comparison]:
    """``importImage`` until a VM may start of it, against ``skopeo copy`` and ``tar``."""
    with tempfile.TemporaryDirectory(prefix="cakework-bench-import-") as name:
        reference = _push(site.registry, Path(name) / "pushed")
        yield Comparison(
            "importImage, 300 MB",
            partial(_ours, site, reference),
            "skopeo copy, tar",
            partial(_theirs, site.registry, reference, Path(name)),
            goal=1.5,
            turns=TURNS,
        )


def _push(registry: Registry, folder: Path) -> str:
    """Put an image of files of this machine into the registry; return its reference."""
    layout = Layout(folder)
    layers = [tar_of(entries) for entries in _contents()]
    image = layout.image([(layer, "gzip") for layer in layers])
    return registry.push(layout.index(image), "team/large:1")


def _contents() -> Iterator[list[Entry]]:
    """Yield layers, each with an even share of the bytes."""
    taken: list[Entry] = []
    size = given = 0
    for path in sorted(OF_THIS_MACHINE.rglob("*")):
        if path.is_symlink() or not path.is_file():
            continue
        mode = 0o755 if os.access(path, os.X_OK) else 0o644
        taken.append(Entry(str(path.relative_to("/")), path.read_bytes(), mode=mode))
        size += len(taken[-1].content)
        if size >= IMAGE_BYTES // LAYERS:
            yield taken
            taken, size, given = [], 0, given + 1
        if given == LAYERS:
            return


def _ours(site: Site, reference: str) -> Taken:
    body = {"imageUri": reference, "password": PASSWORD}
    begun = time.monotonic()
    image_id = site.api.post("/v1/image/import", body)["imageId"]
    asked = time.monotonic()

    def ready() -> bool:
        state = site.api.get(f"/v1/image/{image_id}")["state"]
        if state == "failed":
            raise RuntimeError("the image could not be imported")
        return state == "ready"

    until(ready, END_S, "the image is there")
    ended = time.monotonic()
    site.api.http.delete(f"/v1/image/{image_id}").raise_for_status()
    parts = _parts(site, image_id)
    ms, check_ms = (ended - begun) * 1000, (asked - begun) * 1000
    rest = ms - check_ms - sum(parts.values())
    return Taken(ms, {"the registry is asked": check_ms, **parts, "all else": rest})


def _theirs(registry: Registry, reference: str, folder: Path) -> float:
    with tempfile.TemporaryDirectory(dir=folder) as name:
        layout, root = Path(name) / "layout", Path(name) / "root"
        root.mkdir()
        command = ["skopeo", "--insecure-policy", "copy", "--quiet"]
        command += [f"--src-creds={USERNAME}:{PASSWORD}", f"docker://{reference}", f"oci:{layout}"]
        begun = time.monotonic()
        environment = os.environ | {"SSL_CERT_FILE": str(registry.ca)}
        subprocess.run(command, env=environment, check=True)
        for layer in _layers(layout):
            subprocess.run(
                ["tar", "--extract", "--gzip", f"--file={layer}", f"--directory={root}"], check=True
            )
        return (time.monotonic() - begun) * 1000


def _layers(layout: Path) -> list[Path]:
    blobs = layout / "blobs" / "sha256"
    index = json.loads((layout / "index.json").read_bytes())
    manifest = json.loads(_blob(blobs, index["manifests"][0]).read_bytes())
    return [_blob(blobs, layer) for layer in manifest["layers"]]


def _blob(blobs: Path, descriptor: dict[str, str]) -> Path:
    return blobs / descriptor["digest"].removeprefix("sha256:")


def _parts(site: Site, image_id: str) -> dict[str, float]:
    """Return where the time went, as the node's log says."""
    for line in reversed(site.platform.log.read_text().splitlines()):
        if "import_phases" in line and image_id in line:
            told = json.loads(line)
            return {name: told[phase] * 1000 for phase, name in PHASES.items()}
    return {}
