"""``python -m benchmarks.neighbours``: how much longer ordinary calls of one account take while
another does its worst, way by way. See docs/benchmarks.md.

Each way is measured between two measurements of the same calls alone, since hosts change.
"""

import argparse
import contextlib
import multiprocessing
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from functools import partial
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

from tests.acceptance import guests
from tests.acceptance.api import Api, Json
from tests.acceptance.attacks import ATTACKS, Attacker, silent_registry
from tests.acceptance.footprint import at_rest
from tests.acceptance.platform import Platform

from benchmarks.ending import ended_by_signals, interruptible, may_end

HOOKS = f"127.78.{os.getpid() >> 8 & 255}.{os.getpid() & 255}"
GOAL = 3.0
Times = dict[str, list[float]]


@dataclass(frozen=True)
class Call:
    """Something ordinary, and how often it is done for each measurement.

    ``do`` is what is timed; ``undo`` gets what it returns.
    """

    name: str
    do: Callable[[], Any]
    undo: Callable[[Any], object] = id
    share: float = 1.0


@dataclass(frozen=True)
class Row:
    """95th percentiles of one call, in milliseconds, alone and beside one way of attacking."""

    way: str
    call: str
    alone: float
    beside: float

    @property
    def ratio(self) -> float:
        """How much longer it takes."""
        return self.beside / self.alone


def main() -> int:
    """Measure what is asked for, and print a table."""
    parser = argparse.ArgumentParser(prog="make hostile", description=__doc__)
    parser.add_argument("--turns", type=int, default=100, help="calls of each kind (default 100)")
    parser.add_argument("--strength", type=int, default=4, help="how hard (default 4)")
    parser.add_argument("--only", action="append", choices=list(ATTACKS), help="a way; repeatable")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("it must be run as root, as `cakework up` must be")
    with ended_by_signals():
        rows = measured(options.only or list(ATTACKS), options.turns, options.strength)
    print(table(rows))
    return 0


def measured(ways: Sequence[str], turns: int, strength: int) -> list[Row]:
    """Return the rows of some ways."""
    rows: list[Row] = []
    with scene(strength) as (attacker, calls):
        _times(calls, turns // 5 + 1)
        for way in ways:
            before = _times(calls, turns)
            with apart(way, attacker):
                beside = _times(calls, turns)
            after = _times(calls, turns)
            for call in calls:
                alone = before[call.name] + after[call.name]
                rows.append(Row(way, call.name, p95(alone), p95(beside[call.name])))
                _say(f"{way}, {call.name}: {rows[-1].ratio:.2f}")
    return rows


@contextlib.contextmanager
def scene(strength: int) -> Generator[tuple[Attacker, list[Call]]]:
    """Bring a platform up, with two accounts; give the one and what the other calls."""
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="cakework-bench-")))
        folder.chmod(0o755)
        silent = held.enter_context(silent_registry())
        # Enough for starts one after the other, and soon there.
        pool = {"POOL_SIZE": "8", "POOL_NETWORKS": "8"}
        platform = Platform(folder, {"FETCH_ALLOW": silent, "WEBHOOK_ALLOW": HOOKS, **pool})
        held.callback(platform.end)
        platform.start()
        may_end()
        api = held.enter_context(platform.api())
        worst = held.enter_context(platform.api(platform.new_key("attacker")))
        with interruptible():
            attacker = Attacker(worst, worst.image(guests.BUSYBOX), silent, HOOKS, strength)
            image = api.image(guests.BUSYBOX)
            web = {"SCRIPT": guests.WEB, "NAME": "neighbour"}
            with api.running(image, port=8000, envVars=web) as vm:
                api.visit_when_up(vm)
                at_rest(platform)
                yield attacker, _calls(api, image, vm)


@contextlib.contextmanager
def apart(way: str, attacker: Attacker) -> Generator[None]:
    """Attack from a process of its own, which does not keep this one from measuring."""
    spawned = multiprocessing.get_context("spawn")
    ready, over = spawned.Event(), spawned.Event()
    process = spawned.Process(target=_attack, args=(way, _Place.of(attacker), ready, over))
    process.start()
    try:
        while not ready.wait(1):
            if not process.is_alive():
                raise RuntimeError(f"the attack ended: {way}")
        yield
    finally:
        over.set()
        process.join()


@dataclass(frozen=True)
class _Place:
    """What an attacker is made of, for another process."""

    url: str
    router: str
    key: str
    image: str
    silent: str
    hooks: str
    strength: int

    @classmethod
    def of(cls, attacker: Attacker) -> "_Place":
        api = attacker.api
        return cls(
            *(api.url, api.router, api.key),
            *(attacker.image, attacker.silent, attacker.hooks, attacker.strength),
        )


def _attack(way: str, place: _Place, ready: Event, over: Event) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Api(place.url, place.router, place.key) as api:
        attacker = Attacker(api, place.image, place.silent, place.hooks, place.strength)
        with ATTACKS[way](attacker):
            ready.set()
            over.wait()


def table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown, those over the goal in bold."""
    lines = ["| beside | call | alone, p95 | beside, p95 | ratio |", "|---|---|---|---|---|"]
    for row in rows:
        ratio = f"**{row.ratio:.1f}**" if row.ratio > GOAL else f"{row.ratio:.1f}"
        times = f"{row.alone:.0f} ms | {row.beside:.0f} ms"
        lines.append(f"| {row.way} | {row.call} | {times} | {ratio} |")
    return "\n".join(lines)


def p95(times: Sequence[float]) -> float:
    """Return the 95th percentile."""
    return statistics.quantiles(times, n=20, method="inclusive")[-1]


def _calls(api: Api, image: str, vm: Json) -> list[Call]:
    return [
        Call("getVM", partial(api.vm, vm["id"])),
        Call("getVMLogs", partial(api.printed, vm["id"])),
        Call("a GET through the router", partial(api.visit, vm)),
        Call("startVM to the first line", partial(_start, api, image), api.stop, 0.2),
    ]


def _start(api: Api, image: str) -> str:
    vm = api.start(image, envVars={"SCRIPT": "echo up"})
    assert next(api.follow(f"/v1/vm/{vm['id']}/logs"))["message"] == "up"
    return vm["id"]


def _times(calls: Sequence[Call], turns: int) -> Times:
    """Return how long each call took, in milliseconds, one after the other."""
    times: Times = {call.name: [] for call in calls}
    for turn in range(turns):
        for call in calls:
            if turn < max(5, turns * call.share):
                begun = time.monotonic()
                done = call.do()
                times[call.name].append((time.monotonic() - begun) * 1000)
                call.undo(done)
    return times


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
