"""The contract of every call about images: each field of each answer."""

from collections.abc import Iterator

import pytest

from tests.acceptance import guests
from tests.acceptance.api import Api, Json
from tests.acceptance.shapes import has_times, is_id, is_problem, is_vm
from tests.acceptance.waiting import until
from tests.integration.node.registries import PASSWORD, Registry

IMPORT = "/v1/image/import"
FIELDS = {"imageId", "source", "state", "createdAt", "updatedAt"}


def is_image(image: Json, source: str, state: str, *more: str) -> None:
    assert set(image) == {*FIELDS, *more}
    assert (image["source"], image["state"]) == (source, state)
    is_id("image", image["imageId"])
    has_times(image)
    if "sizeBytes" in more:
        assert type(image["sizeBytes"]) is int
        assert image["sizeBytes"] > 0
    if "buildId" in more:
        is_id("build", image["buildId"])


def ready(api: Api, image_id: str) -> Json | None:
    image = api.get(f"/v1/image/{image_id}")
    return image if image["state"] == "ready" else None


@pytest.fixture(scope="module")
def imported(api: Api, shell: str) -> Iterator[str]:
    """An image from the registry, ready; its id."""
    image_id = api.post(IMPORT, {"imageUri": shell, "password": PASSWORD})["imageId"]
    until(lambda: ready(api, image_id), 120, "the image is there")
    yield image_id
    api.http.delete(f"/v1/image/{image_id}")


@pytest.mark.contract("importImage")
@pytest.mark.parametrize("user", [{}, {"username": "AWS"}, {"username": None}])
def test_an_image_is_imported(api: Api, shell: str, user: Json) -> None:
    """An id and nothing else; a VM may be started from it at once. The user name may be absent."""
    answer = api.post(IMPORT, {"imageUri": shell, "password": PASSWORD, **user})
    assert set(answer) == {"imageId"}
    is_id("image", answer["imageId"])
    with api.running(answer["imageId"], envVars={"SCRIPT": "echo imported"}) as vm:
        is_vm(vm, vm["state"], *({"exitCode", "reason"} & set(vm)), imageId=answer["imageId"])
        api.wait_for_line(vm["id"], "imported")


@pytest.mark.contract("getImage", "listImages")
def test_images_are_looked_at_and_listed(
    api: Api, registry: Registry, imported: str, shell: str, busybox: str
) -> None:
    """Where each is from, how large it is; the list has the same, the newest first."""
    from_registry = api.get(f"/v1/image/{imported}")
    is_image(from_registry, "import", "ready", "sizeBytes", "imageUri")
    assert from_registry["imageUri"] == shell
    built = api.get(f"/v1/image/{busybox}")
    is_image(built, "files", "ready", "sizeBytes", "buildId")
    page = api.get("/v1/images")
    assert set(page) <= {"images", "pagination"}
    assert from_registry in page["images"]
    times = [image["createdAt"] for image in page["images"]]
    assert times == sorted(times, reverse=True)
    is_problem(
        api.http.get("/v1/images", params={"pagination": "x"}), 400, "invalid_request", "pagination"
    )


@pytest.mark.contract("deleteImage")
def test_an_image_is_deleted_once_no_vm_uses_it(api: Api, shell: str) -> None:
    """409 while one does; then gone, twice alike, and nothing can be started from it."""
    image_id = api.post(IMPORT, {"imageUri": shell, "password": PASSWORD})["imageId"]
    path = f"/v1/image/{image_id}"
    with api.running(image_id, envVars={"SCRIPT": guests.IDLE}):
        is_problem(api.http.delete(path), 409, "conflict")
    deleted = api.http.delete(path).raise_for_status().json()
    is_image(deleted, "import", "deleted", *({"sizeBytes", "imageUri"} & set(deleted)))
    assert api.http.delete(path).raise_for_status().json() == deleted == api.get(path)
    is_problem(api.http.post("/v1/vm/start", json={"imageId": image_id}), 404, "not_found")
