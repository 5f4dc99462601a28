"""Two accounts that build in containers on one node: what is one's neither reaches the other nor
the base images, whatever a Dockerfile names."""

import asyncio
import hashlib
import io
import json
import tarfile
from pathlib import Path

import pytest

from cakework.domain.facts import BuildFailed, BuildSucceeded
from cakework.node.builds import run
from cakework.node.builds.recipes import Recipe
from tests.integration.node.build_bench import NOTHING, Bench, mounted, order

BASE = "FROM cakework/busybox\n"
NO_NAME = "must be the name of an image: registry/name:tag"
SECRET = "of the other account"


def _texts(bench: Bench, dockerfile: str, account_id: str, **files: str) -> list[str]:
    """Build, which has to succeed; return what was printed."""
    wanted = order(dockerfile, files, account_id=account_id)
    bench.image(wanted)
    return bench.ledger.texts(wanted.build_id)


FORMS = [
    "FROM {}",
    "ARG x={}\nFROM ${{x}}",
    BASE + "COPY --from={} / /",
    BASE + "ADD --chown=0 --from={} / /",
    BASE + "RUN --mount=from={},target=/m true",
    BASE + "RUN --mount=type=bind,from={},target=/m true",
]
NO_IMAGES = [
    "docker-archive:/b/storage/x.tar",
    "docker-archive:x.tar:localhost/cakework/busybox:latest",
    "oci:/b/storage",
    "dir:/b/storage",
    "containers-storage:[overlay@/b/storage+/b/run]9",
    "docker-daemon:app:latest",
    "oci-archive:x.tar",
    "containers-storage:9",
    "tarball:x.tar",
    "sif:x",
    "atomic:app",
    "docker://registry.example/app@sha256:9",
    "ostree:app@/b/storage",
    "/b/storage",
    "./x.tar",
    "../x",
    "@sha256:" + "0" * 64,
    "-v",
    "APP",
]
DOCKER_HUBS = ["sha256:" + "0" * 64, "archive:x.tar"]


@pytest.mark.parametrize(
    ("form", "reference"),
    [(FORMS[0], reference) for reference in NO_IMAGES]
    + [(form, reference) for form in FORMS[1:] for reference in (NO_IMAGES[0], NO_IMAGES[4])],
)
def test_only_images_of_registries_are_named(bench: Bench, form: str, reference: str) -> None:
    """Nothing else that buildah knows images by: files, other engines, ids."""
    error = bench.error(order(form.format(reference)))
    assert error.startswith((f"base image {reference}", "the Dockerfile does not parse"))
    assert "must " in error or "does not parse" in error
    assert bench.leftovers() == NOTHING


@pytest.mark.parametrize(
    ("form", "reference"),
    [(FORMS[0], reference) for reference in DOCKER_HUBS]
    + [(form, DOCKER_HUBS[1]) for form in FORMS[1:]],
)
def test_a_name_with_a_tag_is_that_of_a_registry(bench: Bench, form: str, reference: str) -> None:
    """Whatever else buildah may take it for. (Nothing here answers in that registry's place.)"""
    bench.image(order(BASE + "RUN true"))
    error = bench.error(order(form.format(reference)))
    assert error.startswith(f"base image {reference} was not found: ")


def test_an_image_is_not_known_by_the_beginning_of_its_id(bench: Bench) -> None:
    """Nor one's own: what looks like one is the name of an image in the default registry."""
    bench.image(order(f"{BASE}RUN echo {SECRET} > /secret", account_id="alice"))
    for digit in "0123456789abcdef":
        wanted = order(f"FROM {digit}\nRUN cat /secret", account_id="mallory")
        assert bench.error(wanted).startswith(f"base image {digit} ")
        assert SECRET not in bench.ledger.texts(wanted.build_id)


def test_what_the_check_would_miss_is_not_there(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even a name that buildah reads otherwise than we do leads to one's own images at most: no
    other account's layers are there, and nobody can write to the base images."""
    monkeypatch.setattr(run, "bases_of", _none)
    bench.image(order(f"{BASE}RUN echo {SECRET} > /secret", account_id="alice"))
    for digit in "0123456789abcdef":
        wanted = order(f"FROM {digit}\nRUN cat /secret || true", account_id="mallory")
        bench.build(wanted)
        assert SECRET not in bench.ledger.texts(wanted.build_id)


def test_nobody_replaces_a_base_image(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """An archive with the name of a base image in it is an image of its account at most."""
    bench.image(order(BASE + "RUN true", account_id="alice"))
    monkeypatch.setattr(run, "bases_of", _none)
    archive = _archive("localhost/cakework/busybox:latest", {"planted": b"by mallory"})
    look = "RUN ls /b /b/bases /b/storage 2>&1; cat /proc/self/mountinfo"
    dockerfile = f"FROM docker-archive:context.tar\nCOPY . /\n{look}"
    wanted = order(dockerfile, {"context.tar": archive}, account_id="mallory")
    end = bench.build(wanted)
    monkeypatch.undo()
    for account_id in ("alice", "bob"):
        image = order(BASE + "RUN ls /", account_id=account_id)
        bench.image(image)
        assert "planted" not in bench.ledger.texts(image.build_id)
    assert isinstance(end, BuildFailed)


def test_layers_are_not_shared_between_accounts(bench: Bench) -> None:
    """The same step is done anew for another account, and found again for the same."""
    dockerfile = f"{BASE}RUN head -c 16 /dev/urandom | base64 > /r\nRUN cat /r; echo {SECRET}"
    made = _texts(bench, dockerfile, "alice")
    again = order(f"{dockerfile}\nRUN cat /r", account_id="alice")
    bench.image(again)
    secret = made[made.index(SECRET) - 1]
    assert secret in bench.ledger.texts(again.build_id)
    assert secret not in _texts(bench, f"{dockerfile}\nRUN cat /r", "mallory")


def test_layers_that_cannot_be_read_are_made_anew(bench: Bench) -> None:
    """Neither the node nor a build ends at what was half written when the machine went down."""
    bench.image(order(BASE + "RUN echo once > /once"))
    for content in ("", '[{"id"', "[[1]]"):
        store = bench.store().storage
        for kind in ("layers", "containers"):
            (store / f"overlay-{kind}" / f"{kind}.json").write_text(content)
        bench.image(order(BASE + "RUN echo once > /once"))
        assert bench.leftovers() == NOTHING


@pytest.mark.parametrize(
    "step",
    [
        "RUN --mount=type=bind,source=req.txt,target=/req cp /req /copied",
        "RUN --mount=target=/c cp /c/req.txt /copied",
        "FROM cakework/busybox AS first\nCOPY req.txt /req.txt\n"
        "FROM cakework/busybox\nRUN --mount=type=bind,from=first,target=/c cp /c/req.txt /copied",
    ],
)
def test_mounted_files_are_those_of_now(bench: Bench, step: str, tmp_path: Path) -> None:
    """A step that reads a file which has changed is done anew, also if it is written the same."""
    dockerfile = step if step.startswith("FROM") else BASE + step
    for number, content in enumerate(("one", "two")):
        image = bench.image(order(dockerfile, {"req.txt": content}))
        with mounted(image, tmp_path / str(number)) as rootfs:
            assert (rootfs / "copied").read_text() == content


def test_builds_of_one_account_hold_up_no_other(bench: Bench) -> None:
    """However many of them sleep for as long as they may, another's begins at once."""
    sleeping = [order(f"{BASE}RUN echo asleep; sleep 1000", account_id="mallory") for _ in "123"]
    wanted = order(f"{BASE}RUN echo awake", account_id="alice")

    async def run() -> None:
        async with bench.open(build_concurrency=2) as builds:
            for each in sleeping:
                await builds.submit(each)
            await bench.ledger.printed(sleeping[0].build_id, "asleep")
            await builds.submit(wanted)
            assert isinstance(await bench.ledger.ended(wanted.build_id), BuildSucceeded)
        # Taken up by the next node, they take turns as before.
        async with bench.open(build_concurrency=2) as builds:
            again = order(f"{BASE}RUN echo awake again", account_id="alice")
            await builds.submit(again)
            assert isinstance(await bench.ledger.ended(again.build_id), BuildSucceeded)
            for each in sleeping:
                await builds.cancel(each.build_id)

    asyncio.run(run())
    assert bench.leftovers() == NOTHING


def _none(_: str) -> tuple[list[Recipe], list[str]]:
    return [], []


def _archive(name: str, files: dict[str, bytes]) -> bytes:
    """Return what ``docker save`` writes for an image of one layer."""
    layer = _tar(files)
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {},
        "rootfs": {
            "type": "layers",
            "diff_ids": [f"sha256:{hashlib.sha256(layer).hexdigest()}"],
        },
    }
    manifest = [{"Config": "config.json", "RepoTags": [name], "Layers": ["layer.tar"]}]
    return _tar(
        {
            "config.json": json.dumps(config).encode(),
            "layer.tar": layer,
            "manifest.json": json.dumps(manifest).encode(),
        }
    )


def _tar(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()
