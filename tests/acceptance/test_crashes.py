"""kill -9 of every part: nothing is lost, nothing is left, and what ran goes on running."""

import os
import signal
from concurrent.futures import Future, ThreadPoolExecutor

from tests.acceptance import guests
from tests.acceptance.api import Api
from tests.acceptance.footprint import Footprint, machine_of
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

LAST = 600


def test_lines_survive_the_death_of_server_and_node(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """Every line that VMs print through all this is there once, in order, and they still run."""
    env = {"SCRIPT": guests.COUNT, "LAST": str(LAST)}
    vms = [api.start(busybox, envVars=env)["id"] for _ in range(3)]
    machines = [machine_of(platform, vm) for vm in vms]
    api.wait_for_line(vms[0], "line 50")
    platform.kill("server")
    api.wait_for_line(vms[0], "line 150")
    platform.kill("node")
    api.wait_for_line(vms[0], "line 300")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(platform.kill, ("node", "server")))
    expected = [*(f"line {number}" for number in range(1, LAST + 1)), "done"]
    for vm in vms:
        assert api.wait_for_line(vm, "done", 120) == expected
        assert api.vm(vm)["state"] == "started"
    assert [machine_of(platform, vm) for vm in vms] == machines
    for vm in vms:
        assert api.stop(vm)["state"] == "destroyed"


def test_vms_outlive_a_restart_of_everything(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """A VM that serves is reached again after `cakework up` was stopped and started."""
    env = {"SCRIPT": guests.WEB, "NAME": "survivor"}
    with api.running(busybox, port=8000, envVars=env) as vm:
        api.visit_when_up(vm)
        machine = machine_of(platform, vm["id"])
        platform.stop()
        assert _is_alive(machine)
        platform.start()
        assert api.visit(vm).text == "hello from survivor\n"
        assert api.vm(vm["id"])["state"] == "started"


def test_visitors_need_no_server_and_the_api_no_router(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """A VM is reached while the server hangs, and after kill -9 of the router; which the API does
    not notice."""
    env = {"SCRIPT": guests.WEB, "NAME": "visited"}
    with api.running(busybox, port=8000, envVars=env) as vm:
        api.visit_when_up(vm)
        server = platform.pid("server")
        assert server is not None
        os.kill(server, signal.SIGSTOP)
        try:
            assert api.visit(vm).text == "hello from visited\n"
        finally:
            os.kill(server, signal.SIGCONT)
        platform.kill("router")
        assert api.visit(vm).text == "hello from visited\n"
        assert platform.pid("server") == server


def test_the_death_of_a_machine_is_noticed_and_cleaned_up(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """When QEMU has died its VM is stopped, with a reason; its log stays."""
    vm = api.start(busybox, port=8000, envVars={"SCRIPT": guests.IDLE})["id"]
    api.wait_for_line(vm, "up")
    os.kill(machine_of(platform, vm), signal.SIGKILL)
    stopped = api.wait_for_state(vm, "stopped")
    assert stopped["reason"]
    assert api.printed(vm) == ["up"]
    assert api.stop(vm)["state"] == "destroyed"


def test_a_machine_that_dies_while_the_node_is_dead_is_noticed(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """A node that comes back finds that a VM is gone, says so, and releases what it held."""
    vm = api.start(busybox, envVars={"SCRIPT": guests.IDLE})["id"]
    api.wait_for_line(vm, "up")
    machine, node = machine_of(platform, vm), platform.pid("node")
    assert node is not None
    os.kill(node, signal.SIGKILL)
    os.kill(machine, signal.SIGKILL)
    assert api.wait_for_state(vm, "stopped")["reason"]
    assert api.printed(vm) == ["up"]
    api.stop(vm)


def test_a_start_cut_off_by_the_nodes_death_leaves_nothing(
    platform: Platform, api: Api, busybox: str, nothing_left: Footprint
) -> None:
    """VMs being started when the node dies come to run or to an end, and never to nothing."""

    def start() -> int:
        body = {"imageId": busybox, "envVars": {"SCRIPT": guests.IDLE}}
        return api.http.post("/v1/vm/start", json=body).status_code

    starting: list[Future[int]] = []

    with ThreadPoolExecutor(6) as threads:

        def under_way() -> bool:
            if all(each.done() for each in starting):
                starting.extend(threads.submit(start) for _ in range(6))
            return bool(api.vms(status="created"))

        until(under_way, 60, "a VM is being started")
        platform.kill("node")
        assert {each.result() for each in starting} <= {200, 500, 503}
    until(lambda: not api.vms(status="created"), 60, "no VM is left half-made")
    for vm in api.vms(status="started"):
        api.stop(vm["id"])


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True
