"""Many VMs at once, and nothing left of them."""

from concurrent.futures import ThreadPoolExecutor

from tests.acceptance.api import Api, Json
from tests.acceptance.footprint import Footprint
from tests.acceptance.platform import Platform

COUNT = 20


def test_twenty_vms_start_at_once_and_leave_nothing(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """All start, each prints its own, all are stopped, and the host is as it was before."""

    def start(number: int) -> Json:
        script = f"echo vm {number}; exec sleep 100000"
        return api.start(busybox, port=8000, envVars={"SCRIPT": script})

    with ThreadPoolExecutor(COUNT) as threads:
        vms = list(threads.map(start, range(COUNT)))
        assert [vm["state"] for vm in vms] == ["started"] * COUNT
        assert len({vm["id"] for vm in vms} | {vm["hostname"] for vm in vms}) == 2 * COUNT
        assert len(api.vms(status="started")) == COUNT
        assert len(platform.machines()) >= COUNT
        for number, vm in enumerate(vms):
            assert api.wait_for_line(vm["id"], "vm") == [f"vm {number}"]
        stopped = list(threads.map(api.stop, [vm["id"] for vm in vms]))
    assert [vm["state"] for vm in stopped] == ["destroyed"] * COUNT
    assert api.vms(status="started") == []


def test_programs_that_end_leave_nothing(api: Api, busybox: str, nothing_left: Footprint) -> None:
    """VMs that end by themselves release all they held without being stopped."""

    def run(number: int) -> Json:
        vm = api.start(busybox, envVars={"SCRIPT": f"exit {number}"})
        return api.wait_for_state(vm["id"], "stopped")

    with ThreadPoolExecutor(5) as threads:
        assert [vm["exitCode"] for vm in threads.map(run, range(5))] == list(range(5))
