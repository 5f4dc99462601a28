"""The worst that one account can do to others, way by way; each while a block runs.

Used by tests that look at states, and by `benchmarks/neighbours.py`, which looks at times.
"""

import contextlib
import json
import resource
import secrets
import socket
import threading
from collections import Counter
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from functools import partial

import httpx2

from tests.acceptance.api import Api, Json
from tests.acceptance.waiting import until
from tests.integration.server.receiver import receiving

NOISE = "noise, again and again, of somebody else"
SLEEP = f"FROM cakework/busybox\nRUN echo {NOISE}; sleep 100000\n"


@dataclass
class Attacker:
    """One account, with an image of its own that runs ``SCRIPT``.

    ``silent`` is the address of a registry that says nothing, ``hooks`` that of a host where
    webhooks may go. ``strength`` is how often each thing is done. ``answers`` counts the statuses
    that it gets, ``ids`` are of things that are its own.
    """

    api: Api
    image: str
    silent: str
    hooks: str
    strength: int
    answers: Counter[int] = field(default_factory=Counter[int])
    ids: set[str] = field(default_factory=set[str])

    def tell(self, answer: httpx2.Response) -> httpx2.Response:
        """Count an answer."""
        self.answers[answer.status_code] += 1
        return answer

    @contextlib.contextmanager
    def doing(self, work: Callable[[], None], threads: int) -> Generator[None]:
        """Do ``work`` over and over in ``threads``; in at least one it has been done once."""
        over, done = threading.Event(), threading.Event()

        def repeat() -> None:
            while not over.is_set():
                with contextlib.suppress(httpx2.TransportError, OSError):
                    work()
                done.set()

        running = [threading.Thread(target=repeat) for _ in range(threads)]
        for thread in running:
            thread.start()
        try:
            until(done.is_set, 120, "the attack begins")
            yield
        finally:
            over.set()
            for thread in running:
                thread.join()


@contextlib.contextmanager
def sleeping_builds(attacker: Attacker) -> Generator[None]:
    """As many builds as may be, none of which ends."""
    made: list[str] = []
    for _ in range(min(20, 3 * attacker.strength)):
        body: Json = {"dockerfile": SLEEP, "files": []}
        made.append(attacker.api.post("/v1/image/build/files", body)["buildId"])
    attacker.ids |= {*made}
    logs = [f"/v1/image/build/{build_id}/logs" for build_id in made]
    try:
        until(
            lambda: any(attacker.api.get(log, batch=50)["lines"] for log in logs),
            200,
            "one of them is at work",
        )
        yield
        states = {attacker.api.get(f"/v1/image/build/{each}")["status"] for each in made}
        assert states == {"created"}
    finally:
        for build_id in made:
            attacker.api.post(f"/v1/image/build/{build_id}/cancel")


@contextlib.contextmanager
def hanging_imports(attacker: Attacker) -> Generator[None]:
    """Imports from a registry that takes connections and says nothing."""
    body = {"imageUri": f"{attacker.silent}/team/app:1"}
    over = threading.Event()

    def work() -> None:
        with contextlib.suppress(httpx2.TimeoutException):
            attacker.tell(attacker.api.http.post("/v1/image/import", json=body, timeout=5))
        over.wait(0.2)

    with attacker.doing(work, 2 + attacker.strength):
        yield


@contextlib.contextmanager
def printing_vms(attacker: Attacker) -> Generator[None]:
    """VMs that print as fast as they can."""
    with contextlib.ExitStack() as held:
        for _ in range(min(4, 1 + attacker.strength)):
            script = {"SCRIPT": f"exec yes '{NOISE}'"}
            vm = held.enter_context(attacker.api.running(attacker.image, envVars=script))
            attacker.ids.add(vm["id"])
            attacker.api.wait_for_line(vm["id"], NOISE)
        yield


@contextlib.contextmanager
def searches(attacker: Attacker) -> Generator[None]:
    """Many searches at once for what is in no log, in one that is long."""
    script = {"SCRIPT": f"yes '{NOISE} Ä' | head -n 4000; echo printed; exec sleep 100000"}
    with attacker.api.running(attacker.image, envVars=script) as vm:
        attacker.ids.add(vm["id"])
        attacker.api.wait_for_line(vm["id"], "printed", 300)

        def work() -> None:
            query = {"query": "in no line of it", "batch": "1000"}
            path = f"/v1/vm/{vm['id']}/logs"
            attacker.tell(attacker.api.http.get(path, params=query))

        with attacker.doing(work, 4 * attacker.strength):
            yield


@contextlib.contextmanager
def hanging_webhooks(attacker: Attacker) -> Generator[None]:
    """Five endpoints that take deliveries and do not answer, and as many of those as may wait."""
    with receiving(host=attacker.hooks) as receiver:
        receiver.may_answer.clear()
        made: list[str] = []
        try:
            for _ in range(5):
                made.append(attacker.api.post("/v1/webhooks", {"url": receiver.url})["id"])
                for _ in range(4 * attacker.strength):
                    attacker.api.post(f"/v1/webhooks/{made[-1]}/test")
            attacker.ids |= {*made}
            until(lambda: len(receiver.received) >= 4, 120, "attempts are under way")
            yield
            log = attacker.api.get(f"/v1/webhooks/{made[-1]}/deliveries", status="pending")
            assert log["deliveries"]
        finally:
            receiver.may_answer.set()
            for endpoint in made:
                attacker.api.http.delete(f"/v1/webhooks/{endpoint}").raise_for_status()


@contextlib.contextmanager
def silent_connections(attacker: Attacker) -> Generator[None]:
    """Connections to the router on which nothing is said; those that are closed are made again."""
    wanted = 300 * attacker.strength
    _allow_files(wanted + 500)
    held: list[socket.socket] = []

    def work() -> None:
        if len(held) >= wanted:
            held.pop(0).close()
        held.append(socket.create_connection(attacker.api.router_address, timeout=10))

    try:
        for _ in range(wanted):
            work()
        with attacker.doing(work, 1):
            yield
    finally:
        for connection in held:
            connection.close()


@contextlib.contextmanager
def large_bodies(attacker: Attacker) -> Generator[None]:
    """Bodies of 24 MiB that are read to their end and refused for it."""
    file = {"dir": ".", "name": "", "content": "x" * (24 << 20)}
    body = json.dumps({"dockerfile": "FROM scratch", "files": [file]}).encode()
    with attacker.doing(partial(_post, attacker, "/v1/image/build/files", body), attacker.strength):
        yield


@contextlib.contextmanager
def invalid_bodies(attacker: Attacker) -> Generator[None]:
    """A megabyte of things each of which is at fault."""
    body = json.dumps({"dockerfile": "FROM scratch", "files": [{}] * 250_000}).encode()
    with attacker.doing(partial(_post, attacker, "/v1/image/build/files", body), attacker.strength):
        yield


@contextlib.contextmanager
def idempotency_keys(attacker: Attacker) -> Generator[None]:
    """Keys without end, each with an answer that is kept."""
    body = json.dumps({"imageId": "01ARZ3NDEKTSV4RRFFQ69G5FAV"}).encode()

    def work() -> None:
        _post(attacker, "/v1/vm/start", body, **{"Idempotency-Key": secrets.token_hex(16)})

    with attacker.doing(work, attacker.strength):
        yield


def _post(attacker: Attacker, path: str, body: bytes, **headers: str) -> None:
    headers["Content-Type"] = "application/json"
    attacker.tell(attacker.api.http.post(path, content=body, headers=headers))


def _allow_files(count: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(count, hard), hard))


@contextlib.contextmanager
def silent_registry() -> Generator[str]:
    """A port of the host's loopback that takes connections and says nothing; its address."""
    with socket.create_server(("127.0.0.1", 0), backlog=256) as listener:
        host, port = listener.getsockname()
        yield f"{host}:{port}"


Attack = Callable[[Attacker], contextlib.AbstractContextManager[None]]
ATTACKS: dict[str, Attack] = {
    "builds that sleep": sleeping_builds,
    "imports from a registry that says nothing": hanging_imports,
    "VMs that print without end": printing_vms,
    "searches in logs": searches,
    "webhooks that do not answer": hanging_webhooks,
    "connections to the router on which nothing is said": silent_connections,
    "large bodies": large_bodies,
    "bodies full of faults": invalid_bodies,
    "idempotency keys without end": idempotency_keys,
}
