"""Starts to the first line of a log: a busybox that prints one line and ends."""

import contextlib
import time
from collections.abc import Generator
from functools import partial
from typing import Any

from tests.acceptance.api import Json

from benchmarks.comparison import Comparison, Taken
from benchmarks.emulator import emulator
from benchmarks.site import BUSYBOX, COMMAND, LINE, Site

WHOLE = ("machine", "run")
"""Phases of the node that follow each other; all others are parts of the first."""


@contextlib.contextmanager
def start(site: Site) -> Generator[Comparison]:
    """``startVM`` against ``docker run``."""
    docker = partial(site.docker.run_ms, BUSYBOX, *COMMAND)
    goal = 0.9 if site.pooled else None
    yield Comparison("startVM", partial(_start, site), "docker run", docker, goal)


@contextlib.contextmanager
def start_podman(site: Site) -> Generator[Comparison]:
    """``startVM`` against ``podman run``."""
    podman = partial(site.podman.run_ms, BUSYBOX, *COMMAND)
    yield Comparison("startVM", partial(_start, site), "podman run", podman)


@contextlib.contextmanager
def start_qemu(site: Site) -> Generator[Comparison]:
    """``startVM`` against a QEMU that boots the same kernel."""
    with emulator(LINE) as qemu:
        boot = qemu.boot_ms
        yield Comparison("startVM", partial(_start, site), "QEMU, kernel booted", boot, turns=5)


@contextlib.contextmanager
def cached_boot(site: Site) -> Generator[Comparison]:
    """``startCachedVM`` of a VM cached with ``boot`` against ``docker start``."""
    vm = site.api.post("/v1/vm/cache", {"imageId": site.images[BUSYBOX]})
    container = site.docker.do("create", BUSYBOX, *COMMAND)
    try:
        yield Comparison(
            "startCachedVM (boot)",
            partial(_start_cached, site, vm),
            "docker start",
            partial(site.docker.start_ms, container),
            0.5 if site.pooled else None,
        )
    finally:
        site.api.post(f"/v1/vm/cached/{vm['id']}/destroy")
        site.docker.do("rm", "--force", container)


def _start(site: Site) -> Taken:
    taken, vm = _to_first_line(site, "/v1/vm/start", {"imageId": site.images[BUSYBOX]}, 0)
    site.api.stop(vm["id"])
    return taken


def _start_cached(site: Site, vm: Json) -> Taken:
    path = f"/v1/vm/{vm['id']}/logs"
    earlier = site.api.get(path, order="newest_first")["lines"]
    after = earlier[0]["id"] if earlier else 0
    return _to_first_line(site, f"/v1/vm/cached/{vm['id']}/start", {}, after)[0]


def _to_first_line(site: Site, path: str, body: dict[str, Any], after: int) -> tuple[Taken, Json]:
    """Start a VM and wait for its first line behind ``after``; it has stopped when this returns."""
    begun = time.monotonic()
    answer = site.api.http.post(path, json=body)
    answered = time.monotonic()
    vm = answer.raise_for_status().json()
    line = next(site.api.follow(f"/v1/vm/{vm['id']}/logs", after))
    ended = time.monotonic()
    if line["message"] != LINE:
        raise RuntimeError(f"the VM printed {line['message']!r}")
    site.api.wait_for_state(vm["id"], "stopped")
    node = phases(answer.headers.get("Server-Timing", ""))
    rest = (answered - begun) * 1000 - sum(node.get(name, 0.0) for name in WHOLE)
    ways = {"server": rest, "answer to first line": (ended - answered) * 1000}
    return Taken((ended - begun) * 1000, {**named(node), **ways}), vm


def named(node: dict[str, float]) -> dict[str, float]:
    """Return the node's phases by names that say what is part of what."""
    parts = {f"node: machine, of it {name}": node[name] for name in node if name not in WHOLE}
    return parts | {f"node: {name}": node[name] for name in WHOLE if name in node}


def phases(header: str) -> dict[str, float]:
    """Return what a ``Server-Timing`` header says: name to milliseconds."""
    told: dict[str, float] = {}
    for metric in filter(None, header.split(",")):
        name, _, rest = metric.strip().partition(";dur=")
        told[name] = float(rest)
    return told
