"""The contract of every call about one-time VMs: each field of each answer."""

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.acceptance import guests
from tests.acceptance.api import Api, Json
from tests.acceptance.shapes import is_problem, is_vm

START = "/v1/vm/start"
IDLE = {"SCRIPT": guests.IDLE}


@pytest.fixture(scope="module")
def running(api: Api, busybox: str) -> Iterator[Json]:
    """A VM that runs, as startVM answered."""
    with api.running(busybox, envVars=IDLE) as vm:
        yield vm


@pytest.mark.contract("startVM", "getVm", "stopVM")
def test_a_vm_with_nothing_but_an_image(api: Api, busybox: str) -> None:
    """The defaults; no port, no url; how it ended once it has; destroyed by stop, twice alike."""
    vm = api.post(START, {"imageId": busybox})
    is_vm(vm, vm["state"], *({"exitCode", "reason"} & set(vm)), imageId=busybox)
    assert vm["state"] in ("started", "stopped")
    stopped = api.wait_for_state(vm["id"], "stopped")
    is_vm(stopped, "stopped", "exitCode", "reason", imageId=busybox, exitCode=0)
    assert stopped["reason"]
    destroyed = api.stop(vm["id"])
    is_vm(destroyed, "destroyed", "exitCode", "reason", exitCode=0, reason=stopped["reason"])
    assert api.stop(vm["id"]) == destroyed == api.vm(vm["id"])
    lasting = ("id", "hostname", "createdAt")
    assert [destroyed[name] for name in lasting] == [vm[name] for name in lasting]


@pytest.mark.contract("startVM", "getVm", "stopVM")
def test_a_vm_with_everything(api: Api, platform_port: int, busybox: str) -> None:
    """Every field is as it was asked for; the url is the hostname at the router's port."""
    wanted = {"cpu": 2, "memory": 512, "port": 65535, "volumeGB": 1}
    with api.running(busybox, envVars=IDLE, **wanted) as vm:
        is_vm(vm, "started", "port", "url", imageId=busybox, **wanted)
        assert vm["url"] == f"http://{vm['hostname']}:{platform_port}/"
        assert api.vm(vm["id"]) == vm
        destroyed = api.stop(vm["id"])
    is_vm(destroyed, "destroyed", "port", "exitCode", "reason", **wanted)


@pytest.fixture
def platform_port(api: Api) -> int:
    """The port of the router."""
    return urlsplit(api.router).port or 80


@pytest.mark.contract("startVM")
def test_null_is_as_good_as_absent(api: Api, busybox: str) -> None:
    """Clients that send every field are understood."""
    nothing = dict.fromkeys(("cpu", "memory", "port", "volumeGB"))
    with api.running(busybox, envVars=IDLE, **nothing) as vm:
        is_vm(vm, "started", imageId=busybox)


@pytest.mark.contract("listVMs", "listVMsUnversioned")
def test_vms_are_listed_under_both_addresses(api: Api, running: Json) -> None:
    """The same answer; by image and by state; each VM as getVm has it, the newest first."""
    query = {"imageId": running["imageId"], "status": "started"}
    page = api.get("/v1/vms", **query)
    assert page == api.get("/vms", **query)
    assert page == {"vms": [running]}
    for state in ("created", "stopped", "destroyed"):
        listed = api.get("/vms", imageId=running["imageId"], status=state)
        assert running not in listed["vms"]
        assert {vm["state"] for vm in listed["vms"]} <= {state}
        times = [vm["createdAt"] for vm in listed["vms"]]
        assert times == sorted(times, reverse=True)
    assert api.get("/v1/vms", imageId="0" * 26) == {"vms": []}
    assert api.get("/vms", imageId="no id") == {"vms": []}


@pytest.mark.parametrize("path", ["/v1/vms", "/vms"])
@pytest.mark.parametrize(("field", "value"), [("status", "running"), ("pagination", "x")])
def test_a_list_that_cannot_be_given(api: Api, path: str, field: str, value: str) -> None:
    """A state that there is not, and a token that was not given, are refused by name."""
    is_problem(api.http.get(path, params={field: value}), 400, "invalid_request", field)
