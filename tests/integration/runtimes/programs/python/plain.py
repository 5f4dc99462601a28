"""Plain functions of requests."""

import threading
import time
from pathlib import Path

from cakework_functions import Response

PART = b"x" * 65_536
MADE = []


def http(request):
    return globals()[request.path.strip("/") or "root"](request)


def root(request):
    return "hello"


def table(request):
    return {"a": [1]}


def blob(request):
    return b"\0\1"


def empty(request):
    return None


def full(request):
    return Response("made", 201, {"X-A": "1", "Set-Cookie": "a=b"})


def told(request):
    context = request.context
    return {
        "method": request.method,
        "query": request.query,
        "headers": dict(request.headers),
        "body": request.text,
        "invocationId": context.invocation_id,
        "version": context.version,
        "userId": context.user_id,
    }


def echo(request):
    """Answer with each part as it comes."""
    yield from request.chunks()


def count(request):
    return str(len(request.body))


def endless(request):
    for _ in range(int(request.query["parts"])):
        MADE.append(1)
        yield PART


def made(request):
    return str(len(MADE))


def breaks(request):
    yield "begun"
    raise ValueError("in the middle")


def raises(request):
    raise ValueError("before")


def wrong(request):
    return 42


def bad_header(request):
    return Response("x", headers={"X-A": "a\r\nX-B: b"})


def gone(request):
    file = Path(request.query["file"])
    file.write_text("begun")
    request.context.signal.wait()
    file.write_text("gone")


def threads(request):
    return threading.current_thread().name


def later(request):
    gate = Path(request.query["gate"])

    def work():
        while not gate.exists():
            time.sleep(0.005)

    request.context.wait_until(work)
    return "answered"
