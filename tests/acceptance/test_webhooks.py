"""What becomes of builds and VMs, as a receiver on this host is told of it."""

from collections.abc import Iterator
from uuid import uuid4

import pytest

from tests.acceptance import guests
from tests.acceptance.api import Api, Json
from tests.acceptance.conftest import HOOKS
from tests.acceptance.waiting import until
from tests.integration.server.receiver import Receiver, receiving

FAILS = "FROM cakework/busybox\nRUN exit 3\n"


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with receiving(host=HOOKS) as receiver:
        yield receiver


@pytest.fixture(scope="module")
def secret(api: Api, receiver: Receiver) -> Iterator[str]:
    """The secret of a webhook to the receiver that wants every event."""
    webhook = api.post("/v1/webhooks", {"url": receiver.url})
    yield webhook["secret"]
    api.http.delete(f"/v1/webhooks/{webhook['id']}").raise_for_status()


def told(receiver: Receiver, secret: str, kind: str, key: str) -> Json:
    """Return what the receiver is told of the build or VM with the id ``key`` by the one event of
    a kind, as soon as that has come; every signature is checked."""

    def found() -> list[Json]:
        messages = [each.verified(secret) for each in [*receiver.received]]
        about = [each["data"] for each in messages if each["type"] == kind]
        return [data for data in about if key in (data.get("buildId"), data.get("id"))]

    data = until(found, 60, f"the receiver is told {kind} of {key}")
    assert len(data) == 1
    return data[0]


def test_builds_are_told_of(api: Api, receiver: Receiver, secret: str) -> None:
    """With the id of the image, or why there is none."""
    build = api.build(f"{guests.BUSYBOX}ENV UNIQUE={uuid4()}\n")
    assert told(receiver, secret, "build.succeeded", build["buildId"]) == build
    assert build["imageId"]
    failed = api.build(FAILS)
    assert told(receiver, secret, "build.failed", failed["buildId"]) == failed
    assert failed["error"]


def test_vms_are_told_of(api: Api, receiver: Receiver, secret: str, busybox: str) -> None:
    """Started, stopped with how the program ended, destroyed; whether it ended by itself or not."""
    script = "busybox nc -l -p 8000 </dev/null; exit 7"
    vm = api.start(busybox, port=8000, envVars={"SCRIPT": script})
    assert told(receiver, secret, "vm.started", vm["id"]) == vm
    until(lambda: api.visit(vm).json()["code"] != "vm_not_listening", 60, "its program is visited")
    stopped = api.wait_for_state(vm["id"], "stopped")
    data = told(receiver, secret, "vm.stopped", vm["id"])
    assert data == stopped
    assert (data["exitCode"], data["reason"]) == (7, "the program ended with exit code 7")
    destroyed = api.stop(vm["id"])
    assert told(receiver, secret, "vm.destroyed", vm["id"]) == destroyed
    running = api.start(busybox, envVars={"SCRIPT": guests.IDLE})
    api.wait_for_line(running["id"], "up")
    destroyed = api.stop(running["id"])
    assert told(receiver, secret, "vm.destroyed", running["id"]) == destroyed
    data = told(receiver, secret, "vm.stopped", running["id"])
    assert (data["exitCode"], data["reason"]) == (destroyed["exitCode"], "stopped on request")
    assert told(receiver, secret, "vm.started", running["id"])["state"] == "started"
