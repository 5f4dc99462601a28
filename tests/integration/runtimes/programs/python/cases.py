"""What handlers answer and how they fail: the same names as in cases.mjs."""

import asyncio
import os
import random
import resource
import sys
import threading
import time
from pathlib import Path

from cakework_functions import NonRetriable, Response, RetryAfter

AT_IMPORT = os.environ.get("KEY")
random.seed(1)
RUNS = {}


class Refused(Exception):
    retriable = False


class Unspeakable(Exception):
    def __str__(self):
        raise RuntimeError("no")


def handler(event, context):
    case = event["case"]
    RUNS[context.invocation_id] = RUNS.get(context.invocation_id, 0) + 1
    return globals()[case](event, context)


def nothing(event, context):
    return None


def nested(event, context):
    return {"text": "ü😀\u2028", "list": [1, 2.5, True, None, {}]}


def raw(event, context):
    return b"\x00\xff"


def response(event, context):
    return Response("<p>", headers={"Content-Type": "text/html"})


async def asynchronous(event, context):
    await asyncio.sleep(0)
    return "later"


def told(event, context):
    return {
        "invocationId": context.invocation_id,
        "attempt": context.attempt,
        "maxAttempts": context.max_attempts,
        "deadline": context.deadline.isoformat(timespec="milliseconds"),
        "functionId": context.function_id,
        "version": context.version,
        "userId": context.user_id,
        "traceparent": context.traceparent,
    }


def large(event, context):
    return "x" * (1024 * 1024 - 2)


def too_large(event, context):
    return "x" * (1024 * 1024 - 1)


def too_large_bytes(event, context):
    return b"x" * (1024 * 1024 + 1)


def not_a_number(event, context):
    return {"a": [float("nan")]}


def cyclic(event, context):
    value = []
    value.append(value)
    return value


def deep(event, context):
    value = []
    for _ in range(100_000):
        value = [value]
    return value


def no_json(event, context):
    return {"f": handler}


def half_character(event, context):
    return "\ud800"


def generator(event, context):
    yield 1


def raises(event, context):
    raise ValueError("it is wrong")


def raises_deeper(event, context):
    try:
        raises(event, context)
    except ValueError as error:
        raise KeyError("outer") from error


def non_retriable(event, context):
    raise NonRetriable("never")


def refused(event, context):
    raise Refused("never")


def retry_after(event, context):
    raise RetryAfter(7.5)


def odd(event, context):
    raise Unspeakable


def long_message(event, context):
    raise ValueError("x" * 1_000_000)


def recursion(event, context):
    return recursion(event, context)


def exits(event, context):
    sys.exit(3)


async def exits_async(event, context):
    sys.exit(3)


async def interrupts(event, context):
    raise KeyboardInterrupt


def exits_hard(event, context):
    os._exit(3)


def threads(event, context):
    """As many threads as there is room for."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * 4096
    resource.setrlimit(resource.RLIMIT_AS, (used + 200 * 2**20, hard))
    end = threading.Event()
    try:
        while True:
            threading.Thread(target=end.wait, daemon=True).start()
    finally:
        end.set()
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def prints(event, context):
    while True:
        print("x" * 1000, flush=True)


def never(event, context):
    while True:
        time.sleep(3600)


def given_up(event, context):
    context.signal.wait()
    raise RuntimeError("given up")


async def given_up_async(event, context):
    Path(event["file"]).write_text("begun")
    try:
        await asyncio.Event().wait()
    finally:
        Path(event["file"]).write_text("cleaned")


def runs(event, context):
    return RUNS.get(event["id"], 0)


def waits_for_file(event, context):
    while not Path(event["file"]).exists():
        time.sleep(0.005)
    return "seen"


async def meets(event, context):
    """Ends when as many run at once as are said."""
    MET.append(1)
    while len(MET) < event["count"]:
        await asyncio.sleep(0.001)
    return "met"


def meets_in_threads(event, context):
    BARRIER.wait()
    return "met"


MET = []
BARRIER = threading.Barrier(3)


def leaves_work(event, context):
    def work():
        while not Path(event["gate"]).exists():
            time.sleep(0.005)
        Path(event["done"]).write_text("done")

    context.wait_until(work)
    return "answered"


async def leaves_work_async(event, context):
    async def work():
        while not Path(event["gate"]).exists():
            await asyncio.sleep(0.005)
        Path(event["done"]).write_text("done")

    context.waitUntil(work())
    return "answered"


def leaves_what_fails(event, context):
    def work():
        raise ValueError("too late")

    context.wait_until(work)


def secrets(event, context):
    return [AT_IMPORT, os.environ.get("KEY"), dict(context.secrets)]


def draws(event, context):
    return random.random()


def prints_a_line(event, context):
    print("a plain line")


def logs(event, context):
    context.log.info("a line of %s", "log")
