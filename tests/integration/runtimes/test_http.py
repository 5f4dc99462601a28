"""Direct work: requests of visitors, streamed both ways, through every form of handler."""

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from http.client import IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import connect
from websockets.typing import Subprotocol

from cakework.domain.direct import SETTLED
from tests.integration.runtimes.adapters import DEADLINE_S, Adapter, adapter, until

PART = 65_536


def entries(*names: str) -> pytest.MarkDecorator:
    """Have a test be made for these programs."""
    return pytest.mark.parametrize("running", names, indirect=True, ids=str)


@pytest.fixture(scope="module")
def running(request: pytest.FixtureRequest) -> Iterator[Adapter]:
    """Give the adapter of an entry."""
    entry: str = request.param
    language = "node" if entry.endswith("js") else "python"
    with adapter(language, entry, "--concurrency", "4") as made:
        yield made


@entries("plain.py", "plain.mjs")
@pytest.mark.parametrize(
    ("path", "status", "kind", "body"),
    [
        ("/", 200, "text/plain", b"hello"),
        ("/table", 200, "application/json", {"a": [1]}),
        ("/blob", 200, None, b"\0\1"),
        ("/empty", 204, None, b""),
        ("/full", 201, "text/plain", b"made"),
    ],
)
def test_answers(running: Adapter, path: str, status: int, kind: str | None, body: Any) -> None:
    """Of every kind, with their status and type."""
    with running.visit("GET", path) as response:
        content = response.read()
        assert response.status == status
        assert (json.loads(content) if isinstance(body, dict) else content) == body
        if kind:
            assert response.headers.get_content_type() == kind
        if path == "/full":
            assert (response.headers["X-A"], response.headers["Set-Cookie"]) == ("1", "a=b")
    with running.visit("HEAD", path) as response:
        assert (response.status, response.read()) == (status, b"")


@entries("plain.py", "plain.mjs")
def test_a_handler_is_told_of_the_request(running: Adapter) -> None:
    """Its query, headers and body, and what the router says of it, which it does not see."""
    given = {
        "Cakework-Invocation-Id": "inv_direct",
        "Cakework-Version": "7",
        "Cakework-User-Id": "cust_42",
        "X-Own": "mine",
    }
    with running.visit("PUT", "/told?a=1&b=%20c", b"body", **given) as response:
        told = json.loads(response.read())
    headers = told.pop("headers")
    assert told == {
        "method": "PUT",
        "query": {"a": "1", "b": " c"},
        "body": "body",
        "invocationId": "inv_direct",
        "version": 7,
        "userId": "cust_42",
    }
    assert headers["x-own"] == "mine"
    assert not [name for name in headers if name.startswith("cakework")]


@entries("plain.py", "plain_async.py", "asgi.py", "wsgi.py", "plain.mjs")
def test_both_ways_stream(running: Adapter) -> None:
    """Each part is answered before the next is sent."""
    with running.connect() as visitor:
        visitor.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n")
        stream = visitor.makefile("rb")
        for number in range(3):
            part = b"part %d" % number
            visitor.sendall(b"%x\r\n%s\r\n" % (len(part), part))
            if number == 0:
                assert stream.readline().startswith(b"HTTP/1.1 200")
                while stream.readline() != b"\r\n":
                    pass
            assert stream.readline() == b"%x\r\n" % len(part)
            assert stream.readline() == part + b"\r\n"
        visitor.sendall(b"0\r\n\r\n")
        assert stream.readline() == b"0\r\n"


@entries("plain.py", "plain.mjs")
def test_a_slow_visitor_holds_a_handler_back(running: Adapter) -> None:
    """No more of the body is made than the visitor takes, but for what lies between them."""
    parts, most_between = 512, 192
    with running.visit("GET", f"/endless?parts={parts}") as response:
        for _ in range(150):  # Each gives it time to make more.
            with running.visit("GET", "/made") as other:
                assert int(other.read()) < most_between
        assert len(response.read()) == parts * PART
    with running.visit("GET", "/made") as other:
        assert int(other.read()) == parts


@entries("plain.py")
def test_nothing_is_made_for_a_head(running: Adapter) -> None:
    """A body that has no end would keep the turn for ever."""
    with running.visit("HEAD", "/endless?parts=1000000000") as response:
        assert (response.status, response.read()) == (200, b"")
    assert running.order("GET", "/idle") == {"idle": True}


@entries("plain.py", "plain.mjs")
def test_large_bodies_come_whole(running: Adapter) -> None:
    """Sixteen megabytes, counted."""
    with running.visit("POST", "/count", bytes(16 * 2**20)) as response:
        assert int(response.read()) == 16 * 2**20


@entries("plain.py", "plain.mjs", "asgi.py", "wsgi.py")
def test_an_error_is_told_to_the_router(running: Adapter) -> None:
    """With its frames; the connection can be used again."""
    with running.connect() as visitor:
        for _ in range(2):
            visitor.sendall(b"GET /raises HTTP/1.1\r\nHost: a\r\n\r\n")
            stream = visitor.makefile("rb")
            assert stream.readline().startswith(b"HTTP/1.1 502 ")
            headers = dict(line.split(b": ", 1) for line in iter(stream.readline, b"\r\n"))
            named = {name.lower(): value.strip() for name, value in headers.items()}
            assert named[b"cakework-error"] == b"handler_error"
            assert named[b"content-type"] == b"application/problem+json"
            told = json.loads(stream.read(int(named[b"content-length"])))
            assert told["error"]["message"] == "before"
            assert "/programs/" in told["error"]["stack"]


@entries("plain.py", "plain.mjs")
def test_what_is_no_response_is_an_error(running: Adapter) -> None:
    """The router is told so."""
    with running.visit("GET", "/wrong") as response:
        assert (response.status, response.headers["Cakework-Error"]) == (502, "bad_answer")


@entries("plain.py")
def test_no_header_begins_another(running: Adapter) -> None:
    """One with the end of a line in it is an error."""
    with running.visit("GET", "/bad_header") as response:
        assert response.status == 502
        assert "X-B" not in response.headers


@entries("asgi.py", "wsgi.py")
def test_an_application_that_answers_nothing_is_an_error(running: Adapter) -> None:
    """It returned before it began."""
    with running.visit("GET", "/silent") as response:
        assert response.status == 502
        assert json.loads(response.read())["error"]["type"] == "NoAnswer"


@entries("plain.py", "plain.mjs")
def test_an_answer_that_breaks_off_has_no_end(running: Adapter) -> None:
    """So that nobody takes it for a whole one."""
    with running.visit("GET", "/breaks") as response:
        assert response.read(5) == b"begun"
        with pytest.raises((IncompleteRead, ConnectionError)):
            response.read()
    until(lambda: "in the middle" in running.output)


@entries("plain.py", "plain_async.py", "asgi.py", "plain.mjs")
def test_a_visitor_that_goes_away_is_noticed(running: Adapter, tmp_path: Path) -> None:
    """The work is given up."""
    file = tmp_path / "state"
    with running.connect() as visitor:
        visitor.sendall(f"GET /gone?file={file} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        until(lambda: file.exists() and file.read_text() == "begun")
    until(lambda: file.read_text() == "gone")
    assert running.order("GET", "/idle") == {"idle": True}


@entries("asgi.py")
def test_work_after_the_answer_outlives_the_visitor(running: Adapter, tmp_path: Path) -> None:
    """Background tasks of frameworks run when the answer is complete, and are not given up."""
    gate, done = tmp_path / "gate", tmp_path / "done"
    with running.visit("GET", f"/later?gate={gate}") as response:
        assert response.read() == b"answered"
    gate.touch()
    until(done.exists)


@entries("plain.py", "plain.mjs", "asgi.py")
def test_the_router_is_told_when_nothing_of_a_request_runs_any_more(
    running: Adapter, tmp_path: Path
) -> None:
    """On the same connection, after the answer, and if it asks for that; which can be used then."""
    gate = tmp_path / "gate"
    head = f"GET /later?gate={gate} HTTP/1.1\r\nHost: a\r\nCakework-Settled: tell\r\n\r\n"
    with running.connect() as visitor:
        for _ in range(2):
            visitor.sendall(head.encode())
            said = b""
            while not said.endswith((b"answered", b"answered\r\n0\r\n\r\n")):
                said += visitor.recv(1000)
            visitor.setblocking(False)
            with pytest.raises(BlockingIOError):
                visitor.recv(1)
            visitor.settimeout(DEADLINE_S)
            gate.touch()
            assert _exactly(visitor, len(SETTLED)) == SETTLED
            gate.unlink()
        gate.touch()
        visitor.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        assert SETTLED not in b"".join(iter(lambda: visitor.recv(1000), b""))


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


@entries("plain.py", "asgi.py")
def test_a_broken_body_is_refused(running: Adapter) -> None:
    """A chunk without a size is the visitor's fault."""
    with running.connect() as visitor:
        head = b"POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        visitor.sendall(head + b"zz\r\n")
        assert visitor.recv(PART).startswith(b"HTTP/1.1 400")


@entries("plain.py", "plain.mjs", "asgi.py")
@pytest.mark.parametrize(
    "request_",
    [
        b"nonsense\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
)
def test_what_is_no_request_is_refused(running: Adapter, request_: bytes) -> None:
    """The connection ends, and others go on."""
    with running.connect() as visitor:
        answer = b""
        with suppress(ConnectionError):
            visitor.sendall(request_)
            while part := visitor.recv(PART):
                answer += part
        assert not answer.startswith(b"HTTP/1.1 2")
    with running.visit("GET", "/") as response:
        assert response.read() == b"hello"


def test_what_nobody_catches_is_told_to_the_visitor() -> None:
    """In Node, before the process ends."""
    with adapter("node", "plain.mjs") as running, running.visit("GET", "/late") as response:
        assert response.status == 502
        assert json.loads(response.read())["error"]["message"] == "late"
        assert running.wait() == 1


@entries("asgi.py")
def test_an_application_is_told_that_it_starts(running: Adapter) -> None:
    """And what it keeps then, requests have."""
    with running.visit("GET", "/state") as response:
        assert response.read() == b"start"


@entries("asgi.py")
def test_websockets(running: Adapter) -> None:
    """Text, bytes, large messages and parts of such, and an end from either side."""
    url = f"ws://127.0.0.1:{running.port}"
    with connect(f"{url}/", subprotocols=[Subprotocol("chat")]) as socket:
        assert socket.subprotocol == "chat"
        for message in ("ü", b"\0\xff", "x" * 1000, b"y" * 100_000):
            socket.send(message)
            assert socket.recv() == message
        socket.send(["a", "b", "c"])
        assert socket.recv() == "abc"
        socket.ping().wait(60)
        socket.send("close")
        with pytest.raises(ConnectionClosed):
            socket.recv()
        assert (socket.close_code, socket.close_reason) == (4001, "asked")
    with running.connect() as visitor, pytest.raises(InvalidStatus):
        connect(f"{url}/refuse", subprotocols=[Subprotocol("chat")], sock=visitor)
    assert running.order("GET", "/idle") == {"idle": True}
