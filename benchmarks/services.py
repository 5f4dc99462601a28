"""Starts to the first HTTP answer: a web service in Python, from the request on."""

import contextlib
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.acceptance.api import Json
from tests.acceptance.waiting import until

from benchmarks.comparison import Comparison, Taken
from benchmarks.http import first_answer
from benchmarks.site import SERVICE, SERVICE_COMMAND, SERVICE_PORT, Site
from benchmarks.starts import named, phases

FORKS = 20
PRIME = [
    "python3",
    "-c",
    f"import urllib.request; urllib.request.urlopen('http://127.0.0.1:{SERVICE_PORT}/').read()",
]
"""Has the service answer once before it is snapshotted, as its first request would."""
READY_S = 120.0


@contextlib.contextmanager
def fresh(site: Site) -> Generator[Comparison]:
    """``startVM`` of the service, its program started afresh."""
    ours = partial(_fresh, site)
    yield Comparison("startVM, first answer", ours, "docker run", partial(_docker, site), turns=5)


@contextlib.contextmanager
def ready(site: Site) -> Generator[Comparison]:
    """``startCachedVM`` of the service from its snapshot."""
    with cached(site) as vm:
        ours = partial(_resume, site, vm)
        yield Comparison("startCachedVM (ready)", ours, "docker run", partial(_docker, site), 0.35)


@contextlib.contextmanager
def wake(site: Site) -> Generator[Comparison]:
    """The first request to a service that sleeps."""
    with cached(site, autoStart=True) as vm:
        ours = partial(_wake, site, vm)
        yield Comparison("request that wakes", ours, "docker run", partial(_docker, site), 0.4)


@contextlib.contextmanager
def fork(site: Site) -> Generator[Comparison]:
    """Many services from one snapshot at once, until all have answered."""
    with cached(site) as vm:
        peer = partial(_docker, site, FORKS)
        name = f"fork of {FORKS}"
        ours = partial(_fork, site, vm)
        yield Comparison(name, ours, f"{FORKS} docker run at once", peer, 0.25, turns=3)


@contextlib.contextmanager
def round_trip(site: Site) -> Generator[Comparison]:
    """A request to a service that runs, over a new connection."""
    with site.api.running(site.images[SERVICE], port=SERVICE_PORT) as vm:
        _answer(site, vm)
        container = site.docker.do(
            "run",
            "--detach",
            "--publish",
            f"{SERVICE_PORT}:{SERVICE_PORT}",
            SERVICE,
            *SERVICE_COMMAND,
        )
        try:
            site.docker.answer("127.0.0.1", SERVICE_PORT)
            docker = partial(site.docker.answer, "127.0.0.1", SERVICE_PORT)
            ours = partial(_answer, site, vm)
            yield Comparison(
                "GET over a new connection", lambda: Taken(_ms(ours)), "docker", lambda: _ms(docker)
            )
        finally:
            site.docker.do("rm", "--force", container)


@contextlib.contextmanager
def cached(site: Site, **wanted: object) -> Generator[Json]:
    """Give a cached VM of the service whose snapshot is made, after it has answered once."""
    body = {
        "imageId": site.images[SERVICE],
        "port": SERVICE_PORT,
        "snapshot": "ready",
        "hooks": {"beforeSnapshot": {"exec": PRIME}},
        **wanted,
    }
    vm = site.api.post("/v1/vm/cache", body)
    try:
        until(partial(_made, site, vm["id"]), READY_S, "the snapshot is made")
        yield vm
    finally:
        site.api.post(f"/v1/vm/cached/{vm['id']}/destroy")


def _made(site: Site, vm_id: str) -> bool:
    snapshot = site.api.vm(vm_id)["snapshot"]
    if snapshot["state"] == "failed":
        raise RuntimeError(f"the snapshot was not made: {snapshot['error']}")
    return snapshot["state"] == "made"


def _fresh(site: Site) -> Taken:
    begun = time.monotonic()
    vm = site.api.start(site.images[SERVICE], port=SERVICE_PORT)
    _answer(site, vm)
    ended = time.monotonic()
    site.api.stop(vm["id"])
    return Taken((ended - begun) * 1000)


def _resume(site: Site, vm: Json) -> Taken:
    begun = time.monotonic()
    answer = site.api.http.post(f"/v1/vm/cached/{vm['id']}/start")
    answered = time.monotonic()
    answer.raise_for_status()
    _answer(site, vm)
    ended = time.monotonic()
    site.api.post(f"/v1/vm/cached/{vm['id']}/stop")
    node = phases(answer.headers.get("Server-Timing", ""))
    ways = {"request to answer": (answered - begun) * 1000, "then": (ended - answered) * 1000}
    return Taken((ended - begun) * 1000, {**named(node), **ways})


def _wake(site: Site, vm: Json) -> Taken:
    taken = Taken(_ms(partial(_answer, site, vm)))
    site.api.post(f"/v1/vm/cached/{vm['id']}/stop")
    return taken


def _fork(site: Site, vm: Json) -> Taken:
    begun = time.monotonic()
    forks = site.api.post(f"/v1/vm/cached/{vm['id']}/fork", {"count": FORKS})["vms"]
    forked = time.monotonic()
    with ThreadPoolExecutor(FORKS) as clients:
        list(clients.map(partial(_answer, site), forks))
    ended = time.monotonic()
    for each in forks:
        site.api.stop(each["id"])
    ways = {"request to answer": (forked - begun) * 1000, "then": (ended - forked) * 1000}
    return Taken((ended - begun) * 1000, ways)


def _docker(site: Site, count: int = 1) -> float:
    return site.docker.serve_ms(SERVICE, *SERVICE_COMMAND, port=SERVICE_PORT, count=count)


def _answer(site: Site, vm: Json) -> None:
    first_answer(site.api.router_address, vm["hostname"])


def _ms(work: partial[None]) -> float:
    begun = time.monotonic()
    work()
    return (time.monotonic() - begun) * 1000
