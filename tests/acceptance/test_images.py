"""Images on the disk of the host: there as long as they are needed, and gone after."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance import guests
from tests.acceptance.api import Api
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

UNKNOWN = "0" * 14


@pytest.fixture
def image(api: Api) -> str:
    """An image of the test's own."""
    return api.image(guests.BUSYBOX)


@pytest.fixture
def others(platform: Platform) -> Iterator[Api]:
    """The API as another account sees it."""
    with platform.api(platform.new_key("others")) as api:
        yield api


def file_of(platform: Platform, image: str) -> Path:
    return platform.settings.node_dir / "images" / image


def test_an_image_goes_once_no_vm_uses_it(
    platform: Platform, api: Api, image: str, others: Api
) -> None:
    """Refused with 409 for a cached VM that is stopped and one that runs, to others it is not
    there; after their end its file is gone from the disk, and it is started from no more."""
    path = f"/v1/image/{image}"
    cached = api.post("/v1/vm/cache", {"imageId": image})["id"]
    running = api.start(image, envVars={"SCRIPT": guests.IDLE})["id"]
    for vm in sorted((cached, running)):
        assert others.http.get(path).status_code == others.http.delete(path).status_code == 404
        refused = api.http.delete(path)
        assert (refused.status_code, refused.json()["code"]) == (409, "conflict")
        assert vm in refused.json()["detail"]
        assert file_of(platform, image).exists()
        api.post(f"/v1/vm/{vm}/destroy")
    assert api.http.delete(path).json()["state"] == "deleted"
    until(lambda: not file_of(platform, image).exists(), 60, "the image's file is gone")
    assert api.http.delete(path).json() == api.get(path)
    assert image not in {each["imageId"] for each in api.get("/v1/images")["images"]}
    assert api.http.post("/v1/vm/start", json={"imageId": image}).status_code == 404


def test_a_file_goes_whatever_dies_meanwhile(platform: Platform, api: Api, image: str) -> None:
    """Deleted while the node is dead, then the server dies too: both come back, and it is gone."""
    node = platform.pid("node")
    assert node is not None
    os.kill(node, signal.SIGKILL)
    assert api.http.delete(f"/v1/image/{image}").json()["state"] == "deleted"
    platform.kill("server")
    until(lambda: not file_of(platform, image).exists(), 60, "the image's file is gone")


def test_volumes_that_are_nobodys_go_and_unknown_ones_stay(
    platform: Platform, api: Api, busybox: str
) -> None:
    """What is on record as destroyed is cleared at the next start; what is not is not touched."""
    vm = api.post("/v1/vm/cache", {"imageId": busybox, "volumeGB": 1})["id"]
    kept = api.post("/v1/vm/cache", {"imageId": busybox, "volumeGB": 1})["id"]
    api.post(f"/v1/vm/{vm}/destroy")
    volumes = {name: platform.settings.node_dir / "volumes" / name for name in (vm, kept, UNKNOWN)}
    for volume in volumes.values():
        volume.write_bytes(b"left by a node of before")
    platform.kill("server")
    until(lambda: not volumes[vm].exists(), 60, "the volume of a destroyed VM is gone")
    assert volumes[kept].exists()
    assert volumes[UNKNOWN].exists()
    volumes[UNKNOWN].unlink()
    api.post(f"/v1/vm/{kept}/destroy")
    volumes[kept].unlink(missing_ok=True)
