"""The contract of every call about cached VMs: each field of each answer, every spelling."""

from typing import Any

import pytest

from tests.acceptance import guests
from tests.acceptance.api import Api, Json
from tests.acceptance.document import Document
from tests.acceptance.platform import Platform
from tests.acceptance.shapes import are_lines, is_problem, is_vm

CACHE = "/v1/vm/cache"
MOST = 101
"""Cached VMs that an account of these tests may have."""


@pytest.mark.contract("cacheVM", "startCachedVM", "stopCachedVM", "destroyCachedVM", "getVm")
def test_a_cached_vm_from_its_making_to_its_end(api: Api, busybox: str) -> None:
    """`stopped`, without having ended; `started`; `stopped` with an end; `destroyed`, without
    an url. Each call may be repeated; identity, hostname and time of making stay."""
    vm = api.post(CACHE, {"imageId": busybox, "envVars": {"SCRIPT": guests.IDLE}, "port": 80})
    is_vm(vm, "stopped", "port", "url", imageId=busybox, port=80)
    path = f"/v1/vm/cached/{vm['id']}"
    for step, state, more in (
        ("start", "started", ("url",)),
        ("stop", "stopped", ("url", "exitCode", "reason")),
        ("start", "started", ("url",)),
        ("destroy", "destroyed", ("exitCode", "reason")),
    ):
        answer = api.post(f"{path}/{step}")
        is_vm(answer, state, "port", *more, imageId=busybox, port=80)
        assert api.post(f"{path}/{step}") == answer == api.vm(vm["id"])
        assert all(answer[name] == vm[name] for name in ("id", "hostname", "createdAt"))
        assert answer.get("url", vm["url"]) == vm["url"]
        assert answer["updatedAt"] >= vm["updatedAt"]


@pytest.mark.contract("cacheVM", "destroyVM")
@pytest.mark.parametrize(
    ("size", "gigabytes"),
    [
        *(({}, 0), ({"diskSize": 1}, 1), ({"volumeGB": 2}, 2), ({"diskSize": 500}, 500)),
        *(({"diskSize": 3, "volumeGB": 3}, 3), ({"diskSize": None, "volumeGB": 4}, 4)),
    ],
)
def test_a_volume_is_asked_for_by_either_name(
    api: Api, busybox: str, size: Json, gigabytes: int
) -> None:
    """`diskSize` and `volumeGB` mean the same; without them there is none, which is 0. The VM is
    destroyed under its plain address too, twice alike."""
    vm = api.post(CACHE, {"imageId": busybox, **size})
    is_vm(vm, "stopped", imageId=busybox, volumeGB=gigabytes)
    destroyed = api.post(f"/v1/vm/{vm['id']}/destroy")
    is_vm(destroyed, "destroyed", volumeGB=gigabytes)
    assert api.post(f"/v1/vm/{vm['id']}/destroy") == destroyed
    assert api.post(f"/v1/vm/cached/{vm['id']}/destroy") == destroyed


@pytest.mark.contract("cacheVM")
def test_the_upper_bounds_are_taken(api: Api, busybox: str) -> None:
    """The largest VM that may be asked for; whether there is room is seen when it is started."""
    most = {"cpu": 8, "memory": 16384, "port": 65535, "volumeGB": 500}
    vm = api.post(CACHE, {"imageId": busybox, **most})
    is_vm(vm, "stopped", "port", "url", imageId=busybox, **most)
    answer = api.http.post(f"/v1/vm/cached/{vm['id']}/start")
    is_problem(answer, 503, "no_room")
    api.post(f"/v1/vm/{vm['id']}/destroy")


@pytest.mark.parametrize(
    ("size", "field"),
    [
        ({"diskSize": 0}, "diskSize"),
        ({"diskSize": 501}, "diskSize"),
        ({"volumeGB": 501}, "volumeGB"),
        ({"diskSize": "1"}, "diskSize"),
        ({"diskSize": 1, "volumeGB": 2}, "body"),
    ],
)
def test_a_volume_that_cannot_be_is_refused(
    api: Api, busybox: str, size: dict[str, Any], field: str
) -> None:
    """Out of range, of another type, or two sizes at once."""
    answer = api.http.post(CACHE, json={"imageId": busybox, **size})
    is_problem(answer, 400, "invalid_request", field)


@pytest.mark.contract("getCachedVMLogs", "getVMLogs", "stopCachedVM")
def test_the_log_of_a_cached_vm_under_both_addresses(api: Api, busybox: str) -> None:
    """The same answer; the lines of all its runs. Its program's end stops it."""
    env = {"SCRIPT": "echo one; echo two"}
    vm_id = api.post(CACHE, {"imageId": busybox, "envVars": env})["id"]
    for _ in range(2):
        api.post(f"/v1/vm/cached/{vm_id}/start")
        vm = api.wait_for_state(vm_id, "stopped")
        is_vm(vm, "stopped", "exitCode", "reason", exitCode=0)
        assert api.post(f"/v1/vm/cached/{vm_id}/stop") == vm
    api.post(f"/v1/vm/{vm_id}/destroy")
    lines = list(api.follow(f"/v1/vm/cached/{vm_id}/logs"))
    are_lines(lines, ["info"])
    assert [line["message"] for line in lines] == ["one", "two", "one", "two"]
    page = api.get(f"/v1/vm/cached/{vm_id}/logs", batch=50)
    assert page == api.get(f"/v1/vm/{vm_id}/logs", batch=50) == {"lines": lines}


@pytest.mark.contract("listVMs", "listVMsUnversioned")
def test_a_quota_and_the_pages_of_a_list(
    platform: Platform, document: Document, newcomer: str
) -> None:
    """More cached VMs than an account may have are refused with a time to wait; the list has 100
    a page, and the token for the rest, under both addresses alike."""
    with platform.api(newcomer, document.check) as api:
        image = api.image(guests.BUSYBOX)
        made = [api.post(CACHE, {"imageId": image})["id"] for _ in range(MOST)]
        answer = api.http.post(CACHE, json={"imageId": image})
        is_problem(answer, 429, "quota_exceeded")
        assert int(answer.headers["Retry-After"]) > 0
        for path in ("/v1/vms", "/vms"):
            first = api.get(path)
            assert set(first) == {"vms", "pagination"}
            last = api.get(path, pagination=first["pagination"])
            assert set(last) == {"vms"}
            assert [len(first["vms"]), len(last["vms"])] == [100, MOST - 100]
            listed = [vm["id"] for vm in (*first["vms"], *last["vms"])]
            assert sorted(listed) == sorted(made)
            times = [vm["createdAt"] for vm in (*first["vms"], *last["vms"])]
            assert times == sorted(times, reverse=True)
        for vm_id in made:
            api.post(f"/v1/vm/{vm_id}/destroy")


@pytest.fixture
def newcomer(platform: Platform) -> str:
    """The key of an account that has nothing yet."""
    return platform.new_key("cautious")
