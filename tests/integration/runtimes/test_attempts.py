"""Each attempt runs once, is answered always alike, and can be given up; what ends a process."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.integration.runtimes.adapters import LANGUAGES, Adapter, adapter, until

ENTRIES = {"python": "cases.py", "node": "cases.mjs"}
AT_ONCE = "4"


@pytest.fixture(scope="module", params=LANGUAGES)
def language(request: pytest.FixtureRequest) -> str:
    """Give each language."""
    return request.param


@pytest.fixture(scope="module")
def running(language: str) -> Iterator[Adapter]:
    """Give an adapter that does four things at once."""
    with adapter(language, ENTRIES[language], "--concurrency", AT_ONCE) as made:
        yield made


@pytest.fixture
def alone(language: str) -> Iterator[Adapter]:
    """Give an adapter that a test may end."""
    with adapter(language, ENTRIES[language], "--concurrency", AT_ONCE) as made:
        yield made


def test_the_same_attempt_runs_once(running: Adapter, tmp_path: Path) -> None:
    """Asked for again while it runs, after its client went away, and after it was answered."""
    event = {"case": "waits_for_file", "file": str(tmp_path / "there")}
    with running.invoked(event, invocation="inv_same"):
        pass  # The client goes away.
    with ThreadPoolExecutor() as threads:
        asked = [threads.submit(running.invoke, event, invocation="inv_same") for _ in range(2)]
        until(lambda: running.result({"case": "runs", "id": "inv_same"}) == 1)
        (tmp_path / "there").touch()
        told = [each.result() for each in asked]
    told.append(running.invoke(event, invocation="inv_same"))
    told.append(running.invoke({"case": "raises"}, invocation="inv_same"))
    assert told[0].answer["result"] == "seen"
    assert told == [told[0]] * 4
    assert running.result({"case": "runs", "id": "inv_same"}) == 1


def test_another_attempt_runs(running: Adapter) -> None:
    """Of the same invocation."""
    for attempt in (1, 2):
        running.result({"case": "nothing"}, invocation="inv_again", attempt=attempt)
    assert running.result({"case": "runs", "id": "inv_again"}) == 2


def test_an_error_is_answered_alike(running: Adapter) -> None:
    """And not tried again by itself."""
    first = running.invoke({"case": "raises"}, invocation="inv_error")
    assert running.invoke({"case": "raises"}, invocation="inv_error") == first
    assert running.result({"case": "runs", "id": "inv_error"}) == 1


def test_what_was_answered_long_ago_never_runs_again(alone: Adapter) -> None:
    """Answers are kept in bounded memory; that they were given is kept longer."""
    for number in range(18):
        alone.invoke({"case": "large"}, invocation=f"inv_{number}_large")
    with alone.invoked({"case": "large"}, invocation="inv_0_large") as response:
        assert response.status == 410
    assert alone.result({"case": "runs", "id": "inv_0_large"}) == 1
    assert alone.invoke({"case": "large"}, invocation="inv_17_large").answer["outcome"] == "ok"
    assert alone.result({"case": "runs", "id": "inv_17_large"}) == 1


def test_many_run_at_once(running: Adapter) -> None:
    """As many as the instance may do; each waits for the others here."""
    with ThreadPoolExecutor() as threads:
        event = {"case": "meets", "count": 3}
        met = list(threads.map(running.result, [event] * 3))
    assert met == ["met"] * 3


def test_synchronous_ones_run_in_threads() -> None:
    """In as many as the instance may do at once."""
    with (
        adapter("python", "cases.py", "--concurrency", "3") as running,
        ThreadPoolExecutor() as threads,
    ):
        event = {"case": "meets_in_threads"}
        assert list(threads.map(running.result, [event] * 3)) == ["met"] * 3


def test_a_function_may_leave_no_room_for_threads(tmp_path: Path) -> None:
    """Those that run handlers are there before it is imported."""
    source = "def no(self):\n  raise RuntimeError('no more')\n"
    source = f"import threading\n{source}threading.Thread.start = no\ndef handler(e): return 1"
    (tmp_path / "main.py").write_text(source)
    with adapter("python", "main.py", "--concurrency", "3", folder=tmp_path) as running:
        assert [running.result() for _ in range(4)] == [1] * 4


def test_one_runs_at_a_time_by_default(language: str, tmp_path: Path) -> None:
    """The second waits for its turn, and both are answered."""
    with (
        adapter(language, ENTRIES[language]) as running,
        running.invoked({"case": "waits_for_file", "file": str(tmp_path / "there")}) as first,
        running.invoked({"case": "runs", "id": "inv_second"}, invocation="inv_second") as second,
    ):
        (tmp_path / "there").touch()
        assert json.loads(first.readline())["result"] == "seen"
        assert json.loads(second.readline())["result"] == 1


@pytest.mark.parametrize("case", ["leaves_work", "leaves_work_async"])
def test_work_goes_on_after_the_answer(running: Adapter, case: str, tmp_path: Path) -> None:
    """The answer comes before, the line that says that nothing runs comes after it."""
    gate, done = tmp_path / "gate", tmp_path / "done"
    if "cases.mjs" in str(running.process.args):
        case = "leaves_work"
    event = {"case": case, "gate": str(gate), "done": str(done)}
    with running.invoked(event) as response, ThreadPoolExecutor() as threads:
        idle = threads.submit(running.order, "GET", "/idle")
        assert json.loads(response.readline())["result"] == "answered"
        assert not done.exists()
        gate.touch()
        assert json.loads(response.readline()) == {"idle": True}
        assert done.read_text() == "done"
        assert idle.result() == {"idle": True}
        assert response.read() == b""


def test_work_that_fails_after_the_answer_is_told(running: Adapter) -> None:
    """It changes no answer."""
    told = running.invoke({"case": "leaves_what_fails"})
    assert told.answer["result"] is None
    assert told.idle["errors"][0]["message"] == "too late"


def test_an_attempt_is_given_up(running: Adapter) -> None:
    """Its signal is set; what it then answers is told as given up."""
    key = {"invocationId": "inv_abort", "attempt": 1}
    with running.invoked({"case": "given_up"}, invocation="inv_abort") as response:
        until(lambda: running.result({"case": "runs", "id": "inv_abort"}) == 1)
        assert running.order("POST", "/abort", key) == {"found": True}
        answer = json.loads(response.readline())
    assert answer["reason"] == "canceled"
    assert answer["error"]["message"] == "given up"
    assert running.order("POST", "/abort", key) == {"found": False}
    assert running.order("POST", "/abort", {**key, "attempt": 2}) == {"found": False}


def test_an_asynchronous_handler_is_cancelled(tmp_path: Path) -> None:
    """In Python, where it can clean up, and is answered for when it has."""
    file = tmp_path / "cleaned"
    event = {"case": "given_up_async", "file": str(file)}
    with (
        adapter("python", "cases.py") as running,
        running.invoked(event, invocation="inv_async") as response,
    ):
        until(file.exists)
        running.order("POST", "/abort", {"invocationId": "inv_async", "attempt": 1})
        answer = json.loads(response.readline())
        assert file.read_text() == "cleaned"
    assert (answer["reason"], answer["error"]["type"]) == ("canceled", "Canceled")


@pytest.mark.parametrize("case", ["asynchronous", "never"])
def test_what_waits_for_its_turn_is_given_up(language: str, case: str, tmp_path: Path) -> None:
    """It is never begun, and answered when it is its turn."""
    gate = tmp_path / "there"
    with (
        adapter(language, ENTRIES[language]) as running,
        running.invoked({"case": "waits_for_file", "file": str(gate)}) as first,
        running.invoked({"case": case}, invocation="inv_waits") as second,
    ):
        key = {"invocationId": "inv_waits", "attempt": 1}
        assert running.order("POST", "/abort", key) == {"found": True}
        gate.touch()
        assert json.loads(first.readline())["result"] == "seen"
        assert json.loads(second.readline())["reason"] == "canceled"
        assert running.result({"case": "runs", "id": "inv_waits"}) == 0


def test_a_process_that_ends_answers_nothing(alone: Adapter) -> None:
    """So who waits sees that it crashed, at once."""
    with alone.invoked({"case": "exits_hard"}) as response:
        assert response.read() == b""
    assert alone.wait() == 3


@pytest.mark.parametrize("case", ["never", "prints"])
def test_what_never_ends_holds_up_nobody(alone: Adapter, case: str) -> None:
    """Others are answered beside it, orders obeyed; the deadline is kept outside."""
    with alone.invoked({"case": case}, invocation="inv_endless"):
        until(lambda: alone.result({"case": "runs", "id": "inv_endless"}) == 1)
        assert alone.order("GET", "/ready")["state"] == "ready"
        key = {"invocationId": "inv_endless", "attempt": 1}
        assert alone.order("POST", "/abort", key) == {"found": True}
        assert alone.result({"case": "asynchronous"}) == "later"


@pytest.mark.parametrize(("case", "message"), [("late", "late"), ("rejected", "nobody looks")])
def test_what_nobody_catches_ends_the_process(case: str, message: str, tmp_path: Path) -> None:
    """In Node: the attempt that it came of gets the error, others get none, and it exits."""
    waiting = {"case": "waits_for_file", "file": str(tmp_path / "never")}
    with (
        adapter("node", "cases.mjs", "--concurrency", "2") as running,
        running.invoked(waiting) as other,
        running.invoked({"case": case}) as response,
    ):
        answer, idle = map(json.loads, response.read().splitlines())
        assert answer["reason"] == "handler_error"
        assert answer["error"]["message"] == message
        assert "cases.mjs" in answer["error"]["stack"]
        assert idle == {"idle": True}
        assert other.read() == b""
        assert running.wait() == 1
        assert message in running.output


def test_secrets_come_after_the_import(alone: Adapter) -> None:
    """In the environment and in the context; those that are not given again are gone."""
    assert alone.result({"case": "secrets"}) == [None, None, {}]
    alone.order("POST", "/secrets", {"secrets": {"KEY": "k1", "OTHER": "o"}})
    assert alone.result({"case": "secrets"}) == [None, "k1", {"KEY": "k1", "OTHER": "o"}]
    alone.order("POST", "/secrets", {"secrets": {"OTHER": "o"}})
    assert alone.result({"case": "secrets"}) == [None, None, {"OTHER": "o"}]


def test_fetch_is_given_secrets() -> None:
    """As its second argument."""
    with adapter("node", "cases.mjs") as running:
        running.order("POST", "/secrets", {"secrets": {"KEY": "k1"}})
        with running.visit("GET", "/") as response:
            assert response.read() == b"k1"


def test_orders_come_from_pid_1(running: Adapter) -> None:
    """A function that is made to fetch an address by a visitor cannot give them."""
    for caller in ("python-requests/2", "node", ""):
        with running.asked("POST", "/abort", {"invocationId": "x"}, caller=caller) as response:
            assert response.status == 403


@pytest.mark.parametrize(
    "order",
    [
        None,
        [],
        {"kind": "event"},
        {"kind": "odd", "context": {"invocationId": "a", "attempt": 1}},
        {"kind": "event", "context": {"attempt": 1}},
        {"kind": "transform", "event": {}, "context": {"invocationId": "t", "attempt": 1}},
    ],
)
def test_what_is_no_order_is_refused(running: Adapter, order: object) -> None:
    """And nothing runs."""
    with running.asked("POST", "/invoke", order) as response:
        assert response.status == 400
    with running.asked("POST", "/unknown", order) as response:
        assert response.status == 404
