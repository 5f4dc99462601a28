"""Requests through the router to real programs in real VMs."""

import hashlib
import os
from collections.abc import Iterator
from socket import create_connection

import httpx2
import pytest
from websockets.sync.client import connect

from tests.acceptance import guests
from tests.acceptance.api import TIMEOUT_S, Api, Json
from tests.acceptance.footprint import Footprint


@pytest.fixture(scope="module")
def vm(api: Api, python: str) -> Iterator[Json]:
    """A VM with a server for all of this."""
    with api.running(python, port=8000, envVars={"SCRIPT": guests.ROUTER_PARTNER}) as vm:
        api.visit_when_up(vm)
        yield vm


def test_path_query_and_host_reach_the_program(api: Api, vm: Json) -> None:
    """The program sees the request as the client made it."""
    assert api.visit(vm, "/a/b?c=d").text == f"GET /a/b?c=d {vm['hostname']}"


def test_a_body_arrives_whole(api: Api, vm: Json) -> None:
    """8 MB up are the same bytes inside."""
    body = os.urandom(8 * 1024 * 1024)
    answer = api.visit(vm, method="POST", content=body)
    assert answer.text == hashlib.sha256(body).hexdigest()


def test_events_arrive_while_they_are_made(api: Api, vm: Json) -> None:
    """Server-sent events come one by one: each before the program makes the next."""
    arrived = 0
    headers = {"Host": vm["hostname"]}
    url = f"{api.router}/events"
    with httpx2.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as answer:
        for line in answer.iter_lines():
            if line:
                assert line == f"data: {arrived}"
                arrived += 1
                api.visit(vm, "/next").raise_for_status()
    assert arrived == 5


def test_websockets_reach_the_program(api: Api, vm: Json) -> None:
    """A WebSocket opens, echoes and closes."""
    connection = create_connection(api.router_address, 30)
    with connect(f"ws://{vm['hostname']}/", sock=connection, proxy=None) as socket:
        for message in ("hello", "x" * 5000):
            socket.send(message)
            assert socket.recv(timeout=30) == message
    assert socket.close_code == 1000


def test_connections_of_the_router_do_not_outlive_their_vm(
    api: Api, python: str, nothing_left: Footprint
) -> None:
    """A VM stopped amid kept and busy connections takes its network with it."""
    with api.running(python, port=8000, envVars={"SCRIPT": guests.ROUTER_PARTNER}) as busy:
        api.visit_when_up(busy)
        headers = {"Host": busy["hostname"]}
        url = f"{api.router}/events"
        with httpx2.stream("GET", url, headers=headers, timeout=TIMEOUT_S) as answer:
            lines = answer.iter_lines()
            assert next(lines) == "data: 0"
            api.stop(busy["id"])
            with pytest.raises(httpx2.TransportError):
                list(lines)


def test_only_what_was_declared_is_reached(api: Api, busybox: str) -> None:
    """No hostname, no port, a port that nobody listens on, a stopped VM: each says what it is."""
    assert api.visit({"hostname": "nobody.localhost"}).status_code == 404
    with api.running(busybox, envVars={"SCRIPT": guests.WEB, "NAME": "x"}) as silent:
        api.wait_for_line(silent["id"], "ready")
        assert api.visit(silent).status_code == 404
    with api.running(busybox, port=8001, envVars={"SCRIPT": guests.WEB, "NAME": "x"}) as other:
        api.wait_for_line(other["id"], "ready")
        refused = api.visit(other)
        assert (refused.status_code, refused.json()["code"]) == (502, "vm_not_listening")
    script = {"SCRIPT": "echo bye"}
    with api.running(busybox, port=8000, envVars=script) as ended:
        api.wait_for_state(ended["id"], "stopped")
        refused = api.visit(ended)
        assert (refused.status_code, refused.json()["code"]) == (502, "vm_stopped")
