"""Functions in machines: what handlers do to their own, and what forks of one snapshot share."""

import time
from collections.abc import Iterator

import pytest

from tests.acceptance.api import Api, Json
from tests.acceptance.functions import made
from tests.acceptance.platform import Platform

pytestmark = pytest.mark.timeout(600)
CLOCK_S = 5.0
PYTHON = """\
import os, random, secrets, shutil, signal, time, uuid

SEEN = []

def draw():
    return [str(uuid.uuid4()), random.random(), os.urandom(8).hex(), secrets.token_hex(8),
            random.SystemRandom().random()]

AT_IMPORT = draw()

def eat():
    kept = []
    while True:
        kept.append(b"x" * (1 << 20))

def bomb():
    while True:
        os.fork()

def delete():
    for folder in ("/app", "/opt", "/tmp", "/usr"):
        shutil.rmtree(folder, ignore_errors=True)
    return os.path.exists("/opt/cakework/adapter")

def kill_1():
    try:
        os.kill(1, signal.SIGKILL)
    except PermissionError:
        return "not allowed"
    return "done"

def kill_all():
    os.kill(-1, signal.SIGKILL)
    # Of all that is not whoever says it.
    os.kill(os.getpid(), signal.SIGKILL)

def loop():
    while True:
        pass

def leave():
    os._exit(3)

DOES = dict(exit=leave, eat=eat, bomb=bomb, delete=delete, kill_1=kill_1, kill_all=kill_all,
            loop=loop)

def handler(event, context):
    what = event["data"]
    SEEN.append(what)
    if what == "draw":
        return {"drawn": draw(), "at": time.time(), "seen": SEEN, "import": AT_IMPORT}
    return DOES[what]()
"""
NODE = """\
import { randomBytes, randomInt, randomUUID } from "node:crypto";

export default {
  event() {
    const bytes = [...crypto.getRandomValues(new Uint8Array(8))].join();
    const drawn = [randomUUID(), randomBytes(8).toString("hex"), String(randomInt(2 ** 40)), bytes,
      String(Math.random())];
    return { drawn, at: Date.now() / 1000 };
  },
};
"""


@pytest.fixture(scope="module")
def api(platform: Platform) -> Iterator[Api]:
    """The API, whatever its document says of functions."""
    with platform.api() as api:
        yield api


@pytest.fixture(scope="module")
def worst(api: Api) -> Iterator[str]:
    """Serves each call by an instance of its own."""
    function_id = made(*(api, "worst", PYTHON), isolation="invocation", timeout=60, maxInstances=3)
    yield function_id
    api.http.delete(f"/v1/functions/{function_id}")


def limited(api: Api, function_id: str, timeout_s: int) -> None:
    """Have the next attempts end after ``timeout_s``."""
    settings = {"settings": {"timeout": timeout_s}}
    assert api.http.patch(f"/v1/functions/{function_id}", json=settings).is_success


def called(api: Api, function_id: str, data: object) -> Json:
    return api.post(f"/v1/functions/{function_id}/invoke", {"data": data})


def drawn(api: Api, function_id: str) -> list[object]:
    """Return what an instance drew, whose clock must be right."""
    before = time.time()
    done = called(api, function_id, "draw")
    assert done["state"] == "succeeded", done
    assert before - CLOCK_S < done["result"]["at"] < time.time() + CLOCK_S
    assert done["attempts"][0]["start"] == "fork", done
    return done["result"]["drawn"]


def test_forks_of_one_snapshot_draw_nothing_alike(api: Api, worst: str) -> None:
    """Each instance draws for itself, by every generator there is, and knows the time."""
    python = [drawn(api, worst) for _ in range(3)]
    node_id = made(api, "dice", NODE, "node24", isolation="invocation")
    try:
        node = [drawn(api, node_id) for _ in range(3)]
    finally:
        api.http.delete(f"/v1/functions/{node_id}")
    for instances in (python, node):
        for values in zip(*instances, strict=True):
            assert len(set(values)) == len(instances), instances


def test_what_a_handler_does_to_its_own_machine_ends_with_it(api: Api, worst: str) -> None:
    """The next work finds all as it was made, and how each ended is told."""
    for what, timeout_s, reasons in (
        ("eat", 60, {"out_of_memory"}),
        ("kill_all", 60, {"crash"}),
        ("bomb", 2, {"handler_error", "out_of_memory", "timeout", "crash"}),
        ("loop", 2, {"timeout"}),
        ("exit", 60, {"crash"}),
    ):
        limited(api, worst, timeout_s)
        failed = called(api, worst, what)
        assert (failed["state"], failed["reason"] in reasons) == ("failed", True), failed
    assert failed["error"]["message"] == "the program ended with exit code 3"
    assert called(api, worst, "delete")["result"] is True
    assert called(api, worst, "kill_1")["result"] == "not allowed"
    after = called(api, worst, "draw")["result"]
    assert after["seen"] == ["draw"]
    assert after["import"] == called(api, worst, "draw")["result"]["import"]
