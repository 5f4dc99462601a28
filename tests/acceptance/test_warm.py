"""Cached VMs whose program is kept, through the public API and the router."""

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.footprint import Footprint
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until

SERVICE = """
import http.server, json, os, socket, time
born, count = os.urandom(8).hex(), 0
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        global count
        count += 1
        said = {"born": born, "count": count, "random": os.urandom(8).hex(),
                "host": socket.gethostname(), "time": time.time()}
        body = json.dumps(said).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("", 8000), Handler).serve_forever()
"""


def cached(api: Api, image: str, **fields: Any) -> Json:
    body = {"imageId": image, "port": 8000, "envVars": {"SCRIPT": SERVICE}, **fields}
    return api.post("/v1/vm/cache", body)


def warm(api: Api, image: str, **fields: Any) -> Json:
    """Return a cached VM whose snapshot is made."""
    vm = cached(api, image, snapshot="ready", **fields)
    assert vm["snapshot"] == {"kind": "ready", "state": "making"}

    def made() -> bool:
        snapshot = api.vm(vm["id"])["snapshot"]
        assert snapshot["state"] != "failed", snapshot
        return snapshot["state"] == "made"

    until(made, 200, "the snapshot is made")
    return vm


def do(api: Api, vm: Json, what: str) -> Json:
    return api.post(f"/v1/vm/cached/{vm['id']}/{what}")


def ask(api: Api, vm: Json) -> Json:
    answer = api.visit(vm)
    assert answer.status_code == 200, answer.text
    return answer.json()


@pytest.mark.contract("forkCachedVM")
def test_a_warm_vm_is_started_and_forked_with_what_it_knew(
    platform: Platform, api: Api, python: str, nothing_left: Footprint
) -> None:
    """All starts have the program of the snapshot, each with its own hostname, randomness and the
    right time; also after kill -9 of node and server; a destroyed one leaves its forks alone."""
    vm = warm(api, python)
    do(api, vm, "start")
    began_s = time.time()
    first = ask(api, vm)
    assert first["count"] == 1
    assert began_s - 1 < first["time"] < time.time() + 1
    do(api, vm, "stop")
    platform.kill("node")
    do(api, vm, "start")
    second = ask(api, vm)
    assert (second["born"], second["count"]) == (first["born"], 1)
    assert second["random"] != first["random"]
    do(api, vm, "stop")
    platform.kill("server")
    forks = api.post(f"/v1/vm/cached/{vm['id']}/fork", {"count": 3})["vms"]
    assert {fork["forkOf"] for fork in forks} == {vm["id"]}
    assert len({fork["hostname"] for fork in forks}) == 3
    do(api, vm, "destroy")
    answers = [ask(api, fork) for fork in forks]
    assert {(answer["born"], answer["count"]) for answer in answers} == {(first["born"], 1)}
    assert len({answer["random"] for answer in answers}) == 3
    assert len({answer["host"] for answer in answers}) == 3
    for fork in forks:
        assert api.stop(fork["id"])["state"] == "destroyed"


def test_memory_is_kept_through_stops_and_crashes(
    platform: Platform, api: Api, python: str, nothing_left: Footprint
) -> None:
    """The program counts on where it was, with a volume too, though node and server were killed."""
    vm = cached(api, python, volumeGB=1)
    do(api, vm, "start")
    counts = [api.visit_when_up(vm).json()["count"]]
    for part in (None, "node", "server"):
        stopped = do(api, vm, "stop?keep=memory")
        assert (stopped["state"], stopped["memoryKept"]) == ("stopped", True)
        if part is not None:
            platform.kill(part)
        do(api, vm, "start")
        counts.append(ask(api, vm)["count"])
    assert counts == [1, 2, 3, 4]
    do(api, vm, "destroy")


def test_requests_wake_a_vm_that_idled(api: Api, python: str, nothing_left: Footprint) -> None:
    """The first ones to its hostname start it, once; idle, it is stopped, and woken it goes on."""
    vm = cached(api, python, autoStart=True, idleTimeout=2)
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(ask, [api] * 4, [vm] * 4))
    assert len({answer["born"] for answer in answers}) == 1
    asleep = api.wait_for_state(vm["id"], "stopped")
    assert asleep["memoryKept"]
    assert "Idle" in asleep["reason"]
    again = ask(api, vm)
    assert (again["born"], again["count"]) == (answers[0]["born"], 5)
    do(api, vm, "destroy")
    assert api.visit(vm).status_code == 404
