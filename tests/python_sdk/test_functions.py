"""What the clients send and wait for where functions are concerned."""

import gzip
import json
from email.parser import BytesParser
from email.policy import HTTP
from typing import Any

import pytest

from cakework_client import (
    CakeworkClient,
    DeployFailed,
    FolderError,
    FunctionLogLine,
    PreconditionFailed,
    TimedOut,
)
from tests.python_sdk.server import END, Handler, Script, Step, good, problem

FUNCTION = "fn_01M84JAQ6RGNRXKE5TFB8SJJJE"
INVOCATION = "inv_01M84JAQ6RGNRXKE5TFB8SJJJE"
AT = "2026-03-03T20:22:39.096Z"


def invocation(state: str = "succeeded", number: int = 0, **more: Any) -> dict[str, Any]:
    """Return an invocation as the API has it."""
    return {
        "id": f"{INVOCATION[:-1]}{number}",
        "functionId": FUNCTION,
        "trigger": "api",
        "kind": "queued",
        "state": state,
        "attempt": 1,
        "attempts": [],
        "depth": 0,
        "createdAt": AT,
        "updatedAt": AT,
        **more,
    }


def version(state: str, **more: Any) -> dict[str, Any]:
    return {
        "functionId": FUNCTION,
        "version": 3,
        "state": state,
        "buildId": "b",
        "runtime": "python3.13",
        "entry": "main.py",
        "sourceDigest": "sha256:0",
        "createdAt": AT,
        "updatedAt": AT,
        **more,
    }


def test_invoke_goes_on_until_the_end(server: Script, client: CakeworkClient) -> None:
    """The server waits up to 50 s a call; the call may be repeated by its one key."""
    server.steps = [
        problem(503, "unavailable", Retry_After="0"),
        good(invocation("running")),
        good(invocation("waiting")),
        good(invocation(result={"n": 1})),
    ]
    done = client.invoke(FUNCTION, {"a": None}, user_id="u")
    assert (done.result, done.ended) == ({"n": 1}, True)
    first, again, *looks = server.asked
    assert first.body == again.body
    assert first.headers["idempotency-key"] == again.headers["idempotency-key"]
    assert {name: first.body[name] for name in ("data", "userId")} == {
        "data": {"a": None},
        "userId": "u",
    }
    assert [each.path for each in looks] == [f"/v1/invocations/{invocation()['id']}"] * 2
    waits = [first.body["wait"], *(float(each.query["wait"][0]) for each in looks)]
    assert all(40 < wait <= 50 for wait in waits)


def test_invoke_ends_in_time(server: Script, client: CakeworkClient) -> None:
    """The server is asked to wait for less than what is left."""
    server.steps = [good(invocation("running"))] * 1000
    with pytest.raises(TimedOut):
        client.invoke(FUNCTION, timeout=1.2)
    assert 0 < server.asked[0].body["wait"] < 1
    assert "data" not in server.asked[0].body
    with pytest.raises(TimedOut):
        client.wait_for_invocation(INVOCATION, timeout=0.3)


def test_as_many_as_may_are_under_way(server: Script, client: CakeworkClient) -> None:
    """In order; an item is taken when there is room for it."""

    def of(handler: Handler) -> None:
        asked = server.asked[-1]
        number = asked.body["data"] if asked.body else int(asked.path[-1])
        handler.send_json(200, invocation("succeeded" if asked.body is None else "queued", number))

    server.steps = [of] * 10
    taken: list[int] = []

    def items() -> Any:
        for number in range(4):
            taken.append(number)
            yield number

    many = client.invoke_many(FUNCTION, items(), at_once=2)
    assert next(many).id.endswith("0")
    assert taken == [0, 1, 2]
    assert [each.id[-1] for each in many] == ["1", "2", "3"]
    kinds = ["post" if each.body else "get" for each in server.asked]
    assert kinds == ["post", "post", "get", "post", "get", "post", "get", "get"]
    with pytest.raises(ValueError, match="at_once"):
        next(client.invoke_many(FUNCTION, [1], at_once=0))


def stream(*events: tuple[int, dict[str, Any] | None], end: bytes = b"") -> Step:
    """Answer with events, then break off."""

    def answer(handler: Handler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", "text/event-stream")
        handler.end_headers()
        handler.close_connection = True
        for id_, data in events:
            told = ": following" if data is None else f"data: {json.dumps(data)}"
            handler.wfile.write(f"id: {id_}\n{told}\n\n".encode())
        handler.wfile.write(end)

    return answer


def test_changes_are_followed_over_broken_connections(
    server: Script, client: CakeworkClient
) -> None:
    """Also one that breaks before anything changed; what comes again is not given out again."""
    running, done = invocation("running"), invocation("succeeded")
    server.steps = [
        stream((5, None)),
        stream((5, None), (7, running)),
        stream((7, None), (7, running), (9, done)),
    ]
    changes = client.follow_invocations(function_id=FUNCTION, state=None)
    assert [next(changes).state, next(changes).state] == ["running", "succeeded"]
    changes.close()
    seen = [each.headers.get("last-event-id") for each in server.asked]
    assert seen == [None, "5", "7"]
    assert server.asked[0].query == {"functionId": [FUNCTION], "follow": ["true"]}


def test_logs_of_functions_say_of_which_invocation(server: Script, client: CakeworkClient) -> None:
    line = {
        "id": 4,
        "timestamp": 1,
        "level": "info",
        "message": "hi",
        "version": 2,
        "vmId": "0123456789abcd",
        "invocationId": INVOCATION,
        "attempt": 1,
    }
    server.steps = [good({"lines": [line]}), stream((4, line), end=END)]
    (read,) = client.iter_logs(FUNCTION)
    (followed,) = client.follow_logs(INVOCATION)
    assert isinstance(read, FunctionLogLine)
    assert read == followed
    assert (read.invocation_id, read.version) == (INVOCATION, 2)
    paths = [each.path for each in server.asked]
    assert paths == [f"/v1/functions/{FUNCTION}/logs", f"/v1/invocations/{INVOCATION}/logs"]


def test_a_version_is_waited_for(server: Script, client: CakeworkClient) -> None:
    server.steps = [good(version("building")), good(version("ready", handlers=["event"]))]
    assert client.wait_for_version(FUNCTION, 3).handlers == ["event"]
    server.steps = [good(version("failed", error="no module"))]
    with pytest.raises(DeployFailed, match=r"Version 3 of .*: no module"):
        client.wait_for_version(FUNCTION, 3)
    server.steps = [good(version("building"))] * 100
    with pytest.raises(TimedOut):
        client.wait_for_version(FUNCTION, 3, timeout=0.2)


def test_code_that_cannot_be_read_is_not_sent(
    server: Script, client: CakeworkClient, tmp_path: Any
) -> None:
    with pytest.raises(FolderError):
        client.deploy_folder(FUNCTION, tmp_path / "none")
    assert server.asked == []


def test_drafts_are_saved_over_what_was_looked_at(server: Script, client: CakeworkClient) -> None:
    saved = {"etag": '"2"', "sourceDigest": "sha256:0", "updatedAt": AT}
    server.steps = [good(saved), problem(412, "precondition_failed"), good({})]
    assert client.put_draft(FUNCTION, {"a/b.py": "x"}, if_match='"1"').etag == '"2"'
    with pytest.raises(PreconditionFailed):
        client.put_draft(FUNCTION, {}, if_match='"1"')
    client.delete_draft(FUNCTION, if_match="*")
    assert [(each.method, each.headers["if-match"]) for each in server.asked] == [
        ("PUT", '"1"'),
        ("PUT", '"1"'),
        ("DELETE", "*"),
    ]
    assert server.asked[0].body == {"files": [{"dir": "a", "name": "b.py", "content": "x"}]}


def test_secrets_are_of_a_scope(server: Script, client: CakeworkClient) -> None:
    secret = {"name": "KEY", "shared": False, "fingerprint": "f", "updatedAt": AT}
    server.steps = [good(secret), good({})]
    client.put_secret("KEY", "v", function_id=FUNCTION)
    client.delete_secret("KEY", user_id="u")
    put, delete = server.asked
    assert (put.method, put.path, put.query) == (
        *("PUT", "/v1/secrets/KEY"),
        {"functionId": [FUNCTION]},
    )
    assert put.body == {"value": "v"}
    assert delete.query == {"userId": ["u"]}


def test_archives_go_as_forms(server: Script, client: CakeworkClient) -> None:
    """As RFC 7578 has them: whoever reads mail reads them, too."""
    archive = gzip.compress(bytes(range(256)) * 9)
    server.steps = [good(version("building"))]
    client.deploy_function(FUNCTION, archive=archive, entry="a.py", promote=False)
    (asked,) = server.asked
    head = f"Content-Type: {asked.headers['content-type']}\r\n\r\n".encode()
    parts = {
        part.get_param("name", header="content-disposition"): part.get_payload(decode=True)
        for part in BytesParser(policy=HTTP).parsebytes(head + asked.content).iter_parts()
    }
    assert parts == {"entry": b"a.py", "promote": b"false", "archive": archive}
    assert asked.headers["idempotency-key"]
