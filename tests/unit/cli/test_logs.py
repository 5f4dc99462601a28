"""Reading and following a log, against a server whose connections break when told to."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import pytest

from cakework.cli.client import Client, Line
from cakework.cli.exits import CommandFailed, ExitCode
from cakework.cli.logs import follow_log, log_of, read_log

LINES = [{"id": str(n), "timestamp": n, "level": "info", "message": f"line {n}"} for n in range(7)]


class LogServer(ThreadingHTTPServer):
    """Serves LINES: in pages of three, or as events with two lines on each connection."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), LogHandler)
        self.asked: list[tuple[str | None, dict[str, list[str]]]] = []
        self.status = 200

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class LogHandler(BaseHTTPRequestHandler):
    """One request for a log."""

    @property
    def log_server(self) -> LogServer:
        """The server it came to."""
        assert isinstance(self.server, LogServer)
        return self.server

    def do_GET(self) -> None:
        query = parse_qs(urlsplit(self.path).query)
        last_id = self.headers.get("Last-Event-ID")
        self.log_server.asked.append((last_id, query))
        self.send_response(self.log_server.status)
        if self.log_server.status != 200:
            self.send_json({"code": "not_found", "detail": "There is no VM 1.", "status": 404})
        elif "follow" in query:
            self.send_events(int(last_id) + 1 if last_id else 0)
        else:
            self.send_page(int(query.get("pagination", ["0"])[0]))

    def send_page(self, start: int) -> None:
        page: dict[str, object] = {"lines": LINES[start : start + 3]}
        if start + 3 < len(LINES):
            page |= {"pagination": str(start + 3), "from": "F", "to": "T"}
        self.send_json(page)

    def send_json(self, value: object) -> None:
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(value).encode())

    def send_events(self, start: int) -> None:
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for line in LINES[start : start + 2]:
            self.wfile.write(f"id: {line['id']}\ndata: {json.dumps(line)}\n\n".encode())
        if start + 2 >= len(LINES):
            self.wfile.write(b"event: end\ndata: {}\n\n")
        else:
            self.wfile.write(b'id: 99\ndata: {"cut off')

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass


@pytest.fixture
def server() -> Iterator[LogServer]:
    """A log server that runs during the test."""
    with LogServer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def client(server: LogServer) -> Iterator[Client]:
    """A client of the log server."""
    with Client(server.url, "cw_test") as client:
        yield client


def messages(lines: Iterator[Line]) -> list[str]:
    return [line["message"] for line in lines]


ALL = [f"line {n}" for n in range(7)]


def test_following_goes_on_where_the_connection_broke(server: LogServer, client: Client) -> None:
    """Every line comes once and in order, however often the stream ends early; a line that was
    cut off is asked for again."""
    assert messages(follow_log(client, "/log", {"query": "x"})) == ALL
    assert [last_id for last_id, _ in server.asked] == [None, "1", "3", "5"]
    assert all(query["query"] == ["x"] for _, query in server.asked)


def test_reading_sends_the_three_tokens_back(server: LogServer, client: Client) -> None:
    """Page after page to the end, each with the pagination, from and to of the one before."""
    assert messages(read_log(client, "/log", {})) == ALL
    assert [query.get("pagination") for _, query in server.asked] == [None, ["3"], ["6"]]
    assert server.asked[1][1]["from"] == ["F"]
    assert server.asked[1][1]["to"] == ["T"]


def test_a_batch_is_one_page(server: LogServer, client: Client) -> None:
    """With a batch one page is asked for, of that size."""
    assert messages(read_log(client, "/log", {}, 50)) == ALL[:3]
    assert [query["batch"] for _, query in server.asked] == [["50"]]


def test_a_refusal_is_not_followed_up(server: LogServer, client: Client) -> None:
    """What the server says about an unknown VM is passed on, once."""
    server.status = 404
    with pytest.raises(CommandFailed, match=r"There is no VM 1\."):
        messages(follow_log(client, "/log", {}))
    assert len(server.asked) == 1


def test_a_server_that_is_not_there_is_reported_at_once() -> None:
    """The first connection is not tried again and again; the address is named."""
    with Client("http://127.0.0.1:9", "cw_test") as client, pytest.raises(CommandFailed) as failure:
        messages(follow_log(client, "/log", {}))
    assert failure.value.exit_code == ExitCode.UNREACHABLE
    assert "http://127.0.0.1:9" in failure.value.detail


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("0123456789abcd", "/v1/vm/0123456789abcd/logs"),
        (
            "3b241101-e2bb-4255-8caf-4136c566a962",
            "/v1/image/build/3b241101-e2bb-4255-8caf-4136c566a962/logs",
        ),
        ("../x", "/v1/vm/..%2Fx/logs"),
    ],
)
def test_an_id_says_what_it_is_of(source: str, path: str) -> None:
    """A UUID is a build's, everything else a VM's; an id cannot change the path."""
    assert log_of(source) == path
