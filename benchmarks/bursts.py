"""Many starts at once, against one alone."""

import contextlib
import os
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from tests.acceptance.api import Api

from benchmarks.comparison import Comparison, Taken
from benchmarks.series import summarise
from benchmarks.site import BUSYBOX, Site

STARTS = 50
SLACK = 1.2


@contextlib.contextmanager
def burst(site: Site) -> Generator[Comparison]:
    """The p95 of a burst against what its starts would take one after the other.

    The pool has machines for all of them, so that they are what the one is.
    """
    processors = os.cpu_count() or 1
    yield Comparison(
        f"p95 of {STARTS} startVM at once",
        partial(_burst, site),
        f"one startVM, times {STARTS}, times {SLACK}, over processors",
        partial(_one, site),
        1.0,
        share=STARTS * SLACK / processors,
        turns=5,
    )


def _burst(site: Site) -> Taken:
    with contextlib.ExitStack() as held:
        # Ready and connected before: making a client takes longer than the server does.
        clients = [held.enter_context(_client(site)) for _ in range(STARTS)]
        threads = held.enter_context(ThreadPoolExecutor(STARTS))
        times = list(threads.map(partial(_start_ms, site), clients))
        stops = [threads.submit(site.api.stop, vm["id"]) for vm in site.api.vms(status="started")]
        for stop in stops:
            stop.result()
    summary = summarise(times)
    return Taken(summary.p95, {"fastest": summary.least, "median": summary.median})


def _one(site: Site) -> float:
    with _client(site) as client:
        return _start_ms(site, client)


@contextlib.contextmanager
def _client(site: Site) -> Generator[Api]:
    with site.platform.api() as api:
        api.vms(status="created")
        yield api


def _start_ms(site: Site, api: Api) -> float:
    """Start a VM and wait for the answer; all must succeed."""
    begun = time.monotonic()
    vm = api.start(site.images[BUSYBOX])
    ended = time.monotonic()
    if vm["state"] not in ("started", "stopped"):
        raise RuntimeError(f"VM {vm['id']} is {vm['state']}")
    return (ended - begun) * 1000
