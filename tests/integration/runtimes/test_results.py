"""What a handler's answer or error becomes, the same in each language."""

import base64
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.runtimes.adapters import LANGUAGES, Adapter, adapter, until

ENTRIES = {"python": "cases.py", "node": "cases.mjs"}
MIB = 1024 * 1024
NESTED: dict[str, Any] = {"text": "ü😀\u2028", "list": [1, 2.5, True, None, {}]}


@pytest.fixture(scope="module")
def python() -> Iterator[Adapter]:
    """Give an adapter that outlives all that these tests do to it."""
    yield from outliving("python")


@pytest.fixture(scope="module")
def node() -> Iterator[Adapter]:
    """Give an adapter that outlives all that these tests do to it."""
    yield from outliving("node")


@pytest.fixture(params=LANGUAGES)
def running(request: pytest.FixtureRequest) -> Adapter:
    """Give the adapter of each language."""
    return request.getfixturevalue(request.param)


def outliving(language: str) -> Iterator[Adapter]:
    with adapter(language, ENTRIES[language]) as made:
        yield made
        assert made.result({"case": "asynchronous"}) == "later"


def failure(running: Adapter, case: str) -> dict[str, Any]:
    told = running.invoke({"case": case})
    assert told.idle == {"idle": True}
    assert told.answer["outcome"] == "error", told.answer
    assert told.answer["durationMs"] >= 0
    return told.answer


@pytest.mark.parametrize(
    ("case", "result"),
    [
        ("nothing", None),
        ("nested", NESTED),
        ("asynchronous", "later"),
        ("large", "x" * (MIB - 2)),
    ],
)
def test_json_is_a_result(running: Adapter, case: str, result: Any) -> None:
    """Whatever JSON can say, up to 1 MiB of it."""
    assert running.result({"case": case}) == result


@pytest.mark.parametrize(
    ("case", "content", "kind"),
    [("raw", b"\0\xff", "application/octet-stream"), ("response", b"<p>", "text/html")],
)
def test_bytes_are_a_result(running: Adapter, case: str, content: bytes, kind: str) -> None:
    """Bytes, and a response with its content type."""
    answer = running.invoke({"case": case}).answer
    assert base64.b64decode(answer["resultBase64"]) == content
    assert answer["contentType"] == kind
    assert "result" not in answer


def test_a_handler_is_told_of_the_attempt(running: Adapter) -> None:
    """All that the order says of it."""
    told = {
        "invocationId": "inv_told",
        "attempt": 2,
        "maxAttempts": 4,
        "deadline": "2026-01-02T03:04:05.678+00:00",
        "functionId": "fn_1",
        "version": 7,
        "userId": "cust_42",
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    context = {key: value for key, value in told.items() if key not in ("invocationId", "attempt")}
    answer = running.result({"case": "told"}, invocation="inv_told", attempt=2, **context)
    assert answer == told


@pytest.mark.parametrize("case", ["too_large", "too_large_bytes"])
def test_a_large_result_is_an_error(running: Adapter, case: str) -> None:
    """One byte over 1 MiB is refused for good."""
    answer = failure(running, case)
    assert answer["reason"] == "result_too_large"
    assert not answer["error"]["retriable"]


@pytest.mark.parametrize("case", ["not_a_number", "cyclic", "deep", "no_json", "half_character"])
def test_what_is_no_json_is_an_error(running: Adapter, case: str) -> None:
    """Nothing is left out or made null silently, and no answer ends the adapter."""
    answer = failure(running, case)
    assert answer["reason"] == "bad_answer"
    assert not answer["error"]["retriable"]


def test_an_error_shows_the_functions_frames_alone(running: Adapter) -> None:
    """Type, message, and where in the function; nothing of the adapter."""
    answer = failure(running, "raises")
    error = answer["error"]
    assert answer["reason"] == "handler_error"
    assert error["type"] in ("ValueError", "TypeError")
    assert error["message"] == "it is wrong"
    assert error["retriable"] is True
    assert "cases." in error["stack"]
    assert "runtimes/python/" not in error["stack"]
    assert "runtimes/node/" not in error["stack"]
    shown = error["stack"].splitlines()[-1].strip()
    until(lambda: shown in running.output)


def test_an_error_shows_its_cause(running: Adapter) -> None:
    """With the frames of both."""
    error = failure(running, "raises_deeper")["error"]
    assert error["type"] in ("KeyError", "RangeError")
    assert "outer" in error["stack"]
    assert "it is wrong" in error["stack"]


@pytest.mark.parametrize("case", ["non_retriable", "refused"])
def test_an_error_may_be_for_good(running: Adapter, case: str) -> None:
    """By its class, or by an attribute of any error."""
    answer = failure(running, case)
    assert answer["reason"] == "non_retriable"
    assert answer["error"]["retriable"] is False


def test_an_error_may_say_when_to_come_again(running: Adapter) -> None:
    """In seconds."""
    answer = failure(running, "retry_after")
    assert answer["reason"] == "handler_error"
    assert answer["error"]["retryAfter"] == 7.5


def test_odd_errors_are_errors(running: Adapter) -> None:
    """Those that cannot be shown, too."""
    assert failure(running, "odd")["reason"] == "handler_error"


def test_messages_and_stacks_are_bounded(running: Adapter) -> None:
    """A megabyte of message is told in a few kilobytes."""
    error = failure(running, "long_message")["error"]
    assert len(error["message"]) < 5000
    assert len(error["stack"]) < 20_000


def test_endless_recursion_is_an_error(running: Adapter) -> None:
    """Of the handler's; its frames are not all told."""
    error = failure(running, "recursion")["error"]
    assert error["type"] in ("RecursionError", "RangeError")
    assert len(error["stack"]) < 20_000


def test_a_handler_logs(running: Adapter) -> None:
    """A line with its level."""
    running.result({"case": "logs"})
    until(lambda: "INFO a line of log\n" in running.output)


def test_what_is_printed_is_not_held_back(running: Adapter) -> None:
    """A line is out when it is printed, though nobody flushes."""
    running.result({"case": "prints_a_line"})
    until(lambda: "a plain line\n" in running.output)


PYTHON_ONLY = {
    "exits": "SystemExit",
    "exits_async": "SystemExit",
    "interrupts": "KeyboardInterrupt",
    "threads": "RuntimeError",
}


@pytest.mark.parametrize("case", PYTHON_ONLY)
def test_python_survives(python: Adapter, case: str) -> None:
    """sys.exit and Ctrl-C are errors of the one attempt, and so is want of threads."""
    answer = failure(python, case)
    assert answer["error"]["type"] == PYTHON_ONLY[case]
    assert answer["reason"] == "handler_error"


def test_a_generator_is_no_result(python: Adapter) -> None:
    """It has no end that one could wait for."""
    assert failure(python, "generator")["reason"] == "bad_answer"


@pytest.mark.parametrize(("case", "message"), [("throws_null", "null"), ("throws_text", "text")])
def test_javascript_throws_anything(node: Adapter, case: str, message: str) -> None:
    """What is thrown need not be an error."""
    error = failure(node, case)["error"]
    assert (error["type"], error["message"]) == ("Thrown", message)
