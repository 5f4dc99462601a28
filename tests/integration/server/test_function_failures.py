"""How attempts fail, and what follows: told by facts, counted as promised, and of no harm to the
next. Adapters as they are, handlers that do their worst."""

import json
from typing import Any

import pytest
from sqlalchemy import func, select

from cakework.domain.orders import NodeProblem
from cakework.domain.vms import EndCause
from cakework.server.store.function_models import AttemptRow, InstanceState, InvocationRow

from .rig import Json, eventually
from .test_functions import Functions, functions

pytestmark = [pytest.mark.anyio, pytest.mark.timeout(180)]
__all__ = ["functions"]
QUICK = {"minDelay": 1, "factor": 1, "maxDelay": 1}
WORST = '''\
import gc, json, os, socket, sys, threading, time
import cakework_functions

SEEN = []

class NonRetriable(Exception):
    """Of this function's own, and no more than its name."""

class Unsayable(Exception):
    def __str__(self):
        raise RuntimeError("no words")
    __repr__ = __str__

class Endless(Exception):
    def __str__(self):
        return "x" * 50_000_000

def deep(depth):
    made = []
    for _ in range(depth):
        made = [made]
    return made

def descend(n):
    return descend(n + 1)

def sockets():
    return [each for each in gc.get_objects() if isinstance(each, socket.socket)]

def handler(event, context):
    what = event.get("data")
    SEEN.append(what)
    if what == "seen":
        return SEEN
    return WORST[what](context)

def raising(error):
    raise error

def spawn_and_go(context):
    if os.fork() == 0:
        time.sleep(600)
        os._exit(0)
    return "left a child"

def garble(context):
    """Write on the connection that the answer goes to, before the adapter does."""
    for each in os.listdir("/proc/self/fd"):
        try:
            made = socket.socket(fileno=os.dup(int(each)))
            if made.type == socket.SOCK_STREAM:
                made.getpeername()
                made.send(b'{"outcome": "well"}\\n')
        except OSError:
            pass
    return "garbled"

def tamper(context):
    """Have the adapter answer what it likes."""
    for name, module in list(sys.modules.items()):
        if name.startswith("cakework_runtime") and hasattr(module, "encoded"):
            module.encoded = lambda answer: b'{"result":NaN}'
    return "tampered"

def forget_modules(context):
    for name in list(sys.modules):
        if name.startswith("cakework") or name in ("json", "asyncio"):
            del sys.modules[name]
    return "forgot"

def close_all(context):
    os.closerange(0, 4096)
    return "closed"

def take_ports(context):
    taken = 0
    for address in [each.getsockname() for each in sockets() if each.fileno() >= 0]:
        try:
            mine = socket.socket()
            mine.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            mine.bind(address)
            mine.listen()
            taken += 1
        except (OSError, TypeError):
            pass
    return "tried"

def print_much(context):
    for _ in range(20_000):
        print("x" * 100)
    return "printed"

WORST = {
    "raise": lambda c: raising(ValueError("no")),
    "own name": lambda c: raising(NonRetriable("mine")),
    "never again": lambda c: raising(cakework_functions.NonRetriable("never")),
    "unsayable": lambda c: raising(Unsayable()),
    "endless": lambda c: raising(Endless()),
    "huge type": lambda c: raising(type("T" * 1_000_000, (Exception,), {})("x")),
    "not text": lambda c: raising(ValueError(b"\\xff", object(), "\\ud800")),
    "recursion": lambda c: descend(0),
    "exit": lambda c: sys.exit(3),
    "base": lambda c: raising(KeyboardInterrupt()),
    "os exit": lambda c: os._exit(3),
    "kill": lambda c: os.kill(os.getpid(), 9),
    "later": lambda c: raising(cakework_functions.RetryAfter(2)),
    "later 1e308": lambda c: raising(cakework_functions.RetryAfter(1e308)),
    "later nan": lambda c: raising(cakework_functions.RetryAfter(float("nan"))),
    "later -1": lambda c: raising(cakework_functions.RetryAfter(-1)),
    "set": lambda c: {1, 2},
    "nan": lambda c: float("nan"),
    "deep": lambda c: deep(100_000),
    "deep enough": lambda c: deep(500),
    "cycle": lambda c: (lambda a: (a.append(a), a)[1])([]),
    "surrogate": lambda c: "\\ud800",
    "number": lambda c: 10 ** 5000,
    "large": lambda c: "x" * 2_000_000,
    "very large": lambda c: "x" * 200_000_000,
    "bytes": lambda c: bytes(2_000_000),
    "keys": lambda c: {(1, 2): 3},
    "child": spawn_and_go,
    "garble": garble,
    "tamper": tamper,
    "forget modules": forget_modules,
    "close all": close_all,
    "take ports": take_ports,
    "print": print_much,
    "thread": lambda c: threading.Thread(target=time.sleep, args=(600,)).start(),
    "signal": lambda c: (__import__("signal").alarm(1), time.sleep(600)),
    "loop": lambda c: [1 for _ in iter(int, 1)],
    "re": lambda c: __import__("re").match("(a+)+$", "a" * 60 + "b"),
}
'''


@pytest.mark.parametrize(
    ("cause", "reason"),
    [
        (EndCause.EXITED, "crash"),
        (EndCause.DIED, "crash"),
        (EndCause.OUT_OF_MEMORY, "out_of_memory"),
        (EndCause.LOST, "interrupted"),
    ],
)
@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_why_a_vm_ended_is_told_as_its_node_tells_it(
    functions: Functions, cause: EndCause, reason: str
) -> None:
    """By a word, not by what the sentence says."""
    functions.node.ends_with = cause
    code = "import os\ndef handler(event, context):\n    os._exit(3)\n"
    function_id = await functions.made(code)
    failed = await functions.invoke(function_id)
    assert (failed["state"], failed["reason"]) == ("failed", reason)
    assert [each["outcome"] for each in failed["attempts"]] == [reason]
    told = f"the program ended with exit code 3, of {cause}"
    assert (failed["error"]["type"], failed["error"]["message"]) == ("InstanceEnded", told)


async def test_a_vm_that_ends_without_a_word_is_waited_for_no_longer(functions: Functions) -> None:
    """Where a machine is gone before its kernel has closed the connection: at its end, and not
    when the attempt's time is over."""
    code = "import time\ndef handler(event, context):\n    time.sleep(600)\n"
    function_id = await functions.made(code)
    taken = await functions.queue(function_id)

    async def at_work() -> str | None:
        (*_, found) = [None, *await functions.instances()]
        return found.vm_id if found is not None and found.state == InstanceState.BUSY else None

    vm_id = await eventually(at_work, "it is at work")
    await functions.node.fall_silent(vm_id, EndCause.OUT_OF_MEMORY)

    async def attempted() -> Json | None:
        found = await functions.rig.ok("GET", f"/v1/invocations/{taken['id']}")
        return found if found["state"] != "running" else None

    found = await eventually(attempted, "the attempt has ended")
    (attempt,) = found["attempts"]
    assert (found["state"], attempt["outcome"]) == ("waiting", "out_of_memory")
    assert found["error"]["message"] == "it ended without a word, of out_of_memory"


async def test_an_instance_that_was_not_reached_is_no_attempt(functions: Functions) -> None:
    """Another has the work, as the same attempt."""
    function_id = await functions.made()
    functions.node.refusals = 4
    done = await functions.invoke(function_id)
    assert (done["state"], done["attempt"]) == ("succeeded", 1)
    assert [each["outcome"] for each in done["attempts"]] == ["succeeded"]
    assert await _count(functions, AttemptRow) == 1


async def test_five_instances_that_were_not_reached_are_a_crash(functions: Functions) -> None:
    """Which counts, and is tried again if the policy says so."""
    function_id = await functions.made(settings={"retry": QUICK})
    functions.node.refusals = 5
    failed = await functions.invoke(function_id)
    assert (failed["state"], failed["reason"], failed["attempt"]) == ("failed", "crash", 1)
    assert "cannot be reached" in failed["error"]["message"]
    functions.node.refusals = 5
    again = await functions.settled((await functions.queue(function_id))["id"])
    assert (again["state"], again["attempt"]) == ("succeeded", 2)
    assert [each["outcome"] for each in again["attempts"]] == ["crash", "succeeded"]
    assert "error" not in again


async def test_five_starts_that_fail_are_a_crash(functions: Functions) -> None:
    """Of the work that waits for them: it does not wait for ever."""
    function_id = await functions.made()
    functions.node.refusal = 400, NodeProblem(code="invalid_request", detail="Not this one.")
    failed = await functions.invoke(function_id)
    assert (failed["state"], failed["reason"], failed["attempt"]) == ("failed", "crash", 1)
    functions.node.refusal = None
    assert (await functions.invoke(function_id))["state"] == "succeeded"


async def test_what_cannot_be_begun_holds_up_nobody_else(functions: Functions) -> None:
    """Where the store refuses one, for whatever fault, the others of the same look are begun."""
    function_id = await functions.made()
    bad = (await functions.queue(function_id, delay=600))["id"]
    database = functions.rig.server.database
    async with database.writing() as session:
        # An attempt of this number is there already, which there should not be.
        session.add(
            AttemptRow(
                invocation_id=bad, attempt=1, version=1, vm_id="", start="fork", started_ms=0
            )
        )
        row = await session.get(InvocationRow, bad)
        assert row is not None
        row.next_ms = 0
    others = [(await functions.queue(function_id))["id"] for _ in range(3)]
    for each in others:
        assert (await functions.settled(each))["state"] == "succeeded"
    async with database.reading() as session:
        row = await session.get(InvocationRow, bad)
    assert row is not None
    assert (row.state, row.attempt) == ("queued", 0)
    assert row.next_ms > row.created_ms


async def test_what_a_second_attempt_ends_with_is_told_and_not_what_the_first_did(
    functions: Functions,
) -> None:
    code = (
        "import os\ndef handler(event, context):\n"
        "    if context.attempt == 1:\n        raise ValueError('the first')\n    os._exit(4)\n"
    )
    function_id = await functions.made(code, settings={"retry": {**QUICK, "maxAttempts": 2}})
    ended = await functions.settled((await functions.queue(function_id))["id"])
    assert [each["outcome"] for each in ended["attempts"]] == ["handler_error", "crash"]
    assert ended["error"]["type"] == "InstanceEnded"


async def test_what_is_canceled_and_what_goes_with_its_function_is_told(
    functions: Functions,
) -> None:
    code = "import time\ndef handler(event, context):\n    time.sleep(600)\n"
    function_id = await functions.made(code)
    ids = [(await functions.queue(function_id))["id"] for _ in range(2)]

    async def run() -> bool:
        found = [await functions.rig.ok("GET", f"/v1/invocations/{each}") for each in ids]
        return all(each["state"] == "running" for each in found)

    await eventually(run, "both run")
    await functions.rig.ok("POST", f"/v1/invocations/{ids[0]}/cancel")
    canceled = await functions.settled(ids[0])
    await functions.rig.ok("DELETE", f"/v1/functions/{function_id}")
    deleted = await functions.settled(ids[1])
    for ended, reason in ((canceled, "canceled_by_caller"), (deleted, "function_deleted")):
        assert (ended["state"], ended["reason"]) == ("canceled", reason)
        assert [each["outcome"] for each in ended["attempts"]] == [reason]
        assert "error" not in ended


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_http_answers_to_an_event_is_told(functions: Functions) -> None:
    """Table of what is tried again, and when."""
    code = (
        "from cakework_functions import Response\n"
        "def http(request):\n"
        "    status, after = request.json()\n"
        "    headers = {'retry-after': after} if after else {}\n"
        "    return Response('no', status=status, headers=headers)\n"
    )
    function_id = await functions.made(code, settings={"concurrency": 1})
    for status, after, reason, retriable, wait in (
        (503, None, "handler_error", True, None),
        (500, None, "handler_error", True, None),
        (429, "7", "handler_error", True, 7),
        (408, None, "handler_error", True, None),
        (404, None, "non_retriable", False, None),
        (400, None, "non_retriable", False, None),
        (302, None, "non_retriable", False, None),
    ):
        failed = await functions.invoke(function_id, [status, after])
        told = failed["error"]
        assert (failed["reason"], told["retriable"]) == (reason, retriable), (status, failed)
        assert (told["type"], told.get("retryAfter")) == (f"Http{status}", wait)
    assert (await functions.invoke(function_id, [204, None]))["state"] == "succeeded"


HARMLESS = ("child", "print", "thread", "take ports", "forget modules")
OUTCOMES: dict[str, tuple[str, ...]] = {
    "raise": ("handler_error",),
    "own name": ("handler_error",),
    "never again": ("non_retriable",),
    "unsayable": ("handler_error",),
    "endless": ("handler_error",),
    "huge type": ("handler_error",),
    "not text": ("handler_error",),
    "recursion": ("handler_error",),
    "exit": ("handler_error",),
    "base": ("handler_error",),
    "os exit": ("crash",),
    "kill": ("crash",),
    "later": ("handler_error",),
    "later 1e308": ("handler_error",),
    "later nan": ("handler_error",),
    "later -1": ("handler_error",),
    "set": ("bad_answer",),
    "nan": ("bad_answer",),
    "deep": ("bad_answer",),
    "deep enough": ("bad_answer",),
    "cycle": ("bad_answer",),
    "surrogate": ("bad_answer",),
    "number": ("bad_answer",),
    "keys": ("bad_answer",),
    "large": ("result_too_large",),
    "very large": ("result_too_large",),
    "bytes": ("result_too_large",),
    "garble": ("bad_answer", "crash"),
    "tamper": ("bad_answer",),
    "close all": ("crash",),
    "signal": ("crash",),
}
LATE = ("loop", "re")


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_the_worst_handlers_harm_none_but_themselves(functions: Functions) -> None:
    """Each fails as the contract says, and the next work has an instance that is as good as new;
    the account's other function is served by its instance all the while."""
    worst = await functions.made(WORST, name="worst")
    good = await functions.made(name="good")
    for calls, (what, expected) in enumerate(OUTCOMES.items(), 1):
        failed = await functions.invoke(worst, what)
        assert failed["state"] == "failed", (what, failed)
        assert failed["reason"] in expected, (what, failed)
        assert len(json.dumps(failed)) < 100_000, what
        assert set((await functions.invoke(worst, "seen"))["result"]) == {"seen"}, what
        assert (await functions.invoke(good))["result"]["calls"] == calls
    for what in HARMLESS:
        done = await functions.invoke(worst, what)
        assert done["state"] == "succeeded", (what, done)
        assert (await functions.invoke(worst, "seen"))["state"] == "succeeded", what
    listed = await functions.rig.ok("GET", "/v1/invocations", params={"functionId": worst})
    assert len(listed["invocations"]) > len(OUTCOMES)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_never_answers_is_ended_in_time(functions: Functions) -> None:
    """While it holds the interpreter, too."""
    worst = await functions.made(WORST, settings={"timeout": 1})
    for what in LATE:
        late = await functions.invoke(worst, what)
        assert (late["state"], late["reason"]) == ("failed", "timeout"), (what, late)
        assert set((await functions.invoke(worst, "seen"))["result"]) == {"seen"}


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_delays_that_handlers_ask_for_are_kept_in_bounds(functions: Functions) -> None:
    retry = {"minDelay": 1, "factor": 1, "maxDelay": 30}
    worst = await functions.made(WORST, settings={"retry": retry})

    async def waits_s(what: str) -> float:
        queued = await functions.queue(worst, what)

        async def look() -> Json | None:
            found = await functions.rig.ok("GET", f"/v1/invocations/{queued['id']}")
            return found if found["state"] == "waiting" else None

        await eventually(look, f"{what} waits")
        async with functions.rig.server.database.reading() as session:
            row = await session.get(InvocationRow, queued["id"])
        assert row is not None
        await functions.rig.ok("POST", f"/v1/invocations/{queued['id']}/cancel")
        return (row.next_ms - row.updated_ms) / 1000

    assert await waits_s("later") == 2
    assert await waits_s("later 1e308") == 30
    for what in ("later nan", "later -1", "raise"):
        assert 0.5 <= await waits_s(what) <= 1


async def test_events_as_deep_as_may_be_reach_the_handler_or_are_refused(
    functions: Functions,
) -> None:
    function_id = await functions.made("def handler(event, context):\n    return 'came'\n")
    path = f"/v1/functions/{function_id}/invoke"
    for depth in (50, 150, 400, 100_000):
        body = b'{"data": ' + b"[" * depth + b"]" * depth + b"}"
        headers = {"content-type": "application/json"}
        answer = await functions.rig.client.post(path, content=body, headers=headers)
        if depth <= 150:
            assert answer.json()["result"] == "came", (depth, answer.text)
        else:
            assert answer.status_code == 400, (depth, answer.text)
    assert (await functions.invoke(function_id))["result"] == "came"


async def _count(functions: Functions, table: Any) -> int:
    async with functions.rig.server.database.reading() as session:
        return await session.scalar(select(func.count()).select_from(table)) or 0
