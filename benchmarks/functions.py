"""``python -m benchmarks.functions``: what calls, deploys and queued work of functions take. See
docs/benchmarks.md.

There is no peer to hold these against: they have goals of their own, and say little on a machine on
which anything else is at work.
"""

import argparse
import contextlib
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.acceptance.api import Api, Json
from tests.acceptance.footprint import at_rest
from tests.acceptance.platform import Platform
from tests.acceptance.waiting import until
from tests.integration.server import postgres

from benchmarks.ending import ended_by_signals, interruptible, may_end
from benchmarks.series import summarise

CODE = """\
def handler(event, context):
    return {"version": context.version, "data": event.get("data")}
"""
READY_S = 300.0
CLIENTS = 16
ACCEPTED = 1_500
LATER_S = 3_600


@dataclass(frozen=True)
class Row:
    """What something took, turn by turn: in milliseconds, or how many in a second."""

    name: str
    values: Sequence[float]
    unit: str
    goal: str


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.functions", description=__doc__)
    parser.add_argument("--turns", type=int, default=15, help="turns of each (default 15)")
    options = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("it must be run as root, as `cakework up` must be")
    with ended_by_signals():
        rows = measured(options.turns)
    print(table(rows))
    return 0


def measured(turns: int) -> list[Row]:
    """Return what all cases took, on SQLite; and what PostgreSQL accepts, if it is there."""
    load = os.getloadavg()[0]
    _say(f"load of this machine before: {load:.1f}")
    with scene({}) as (platform, api):
        function = made(api, "function", {"maxInstances": 64})
        apart = made(api, "apart", {"maxInstances": 64, "isolation": "invocation"})
        cases: list[tuple[str, str, Callable[[int], float]]] = [
            ("warm call, over its handler's own time", "≤ 15 ms", partial(_over, api, function)),
            ("cold call, a snapshot there", "≤ 100 ms", partial(_cold, api, function)),
            ("call in a VM of its own", "≤ 100 ms", partial(_call_ms, api, apart)),
            ("deploy of code, to its first answer", "≤ 1 s", partial(_deploy, api, function)),
            ("rollback, to its first answer", "≤ 1 s", partial(_rollback, api, function)),
        ]
        rows: list[Row] = []
        for name, goal, case in cases:
            values: list[float] = []
            for turn in range(-1, turns):
                at_rest(platform)
                value = case(turn)
                values += [value] if turn >= 0 else []
            rows.append(Row(name, values, "ms", goal))
            _say(f"{name}: {statistics.median(values):.0f} ms")
        rows.append(Row("queued, SQLite", [accepted(api, function)], "/s", "≥ 200 /s"))
    if not postgres.BIN.exists():
        _say("PostgreSQL is not installed: not measured")
        return rows
    with postgres.running_cluster(durable=True) as cluster:
        # The server is another user than PostgreSQL.
        cluster.folder.chmod(0o755)
        with scene({"DATABASE_URL": cluster.url("postgres")}) as (_, api):
            function = made(api, "function", {})
            rows.append(Row("queued, PostgreSQL", [accepted(api, function)], "/s", "≥ 500 /s"))
    return rows


@contextlib.contextmanager
def scene(settings: Mapping[str, str]) -> Generator[tuple[Platform, Api]]:
    """Bring a platform up."""
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="cakework-bench-")))
        folder.chmod(0o755)
        platform = Platform(folder, settings)
        held.callback(platform.end)
        platform.start()
        may_end()
        api = held.enter_context(platform.api())
        with interruptible():
            yield platform, api


def made(api: Api, name: str, settings: Json) -> str:
    """Make a function; return its id when it is live."""
    body = {"name": name, "runtime": "python3.11", "settings": settings, "source": _source(CODE)}
    function_id = api.post("/v1/functions", body)["id"]
    until(partial(_is_ready, api, function_id, 1), READY_S, "the function is live")
    return function_id


def accepted(api: Api, function_id: str) -> float:
    """Return how much work is accepted in a second, which is to be done later."""
    body = {"mode": "async", "delay": LATER_S, "data": {"n": 1}}
    path = f"/v1/functions/{function_id}/invoke"

    def take(_: int) -> None:
        api.post(path, body)

    begun = time.monotonic()
    with ThreadPoolExecutor(CLIENTS) as clients:
        list(clients.map(take, range(ACCEPTED)))
    return ACCEPTED / (time.monotonic() - begun)


def _call(api: Api, function_id: str, **more: object) -> tuple[float, Json]:
    begun = time.monotonic()
    answer = api.post(f"/v1/functions/{function_id}/invoke", {"data": 1, **more})
    took = (time.monotonic() - begun) * 1000
    if answer["state"] != "succeeded":
        raise RuntimeError(f"a call failed: {answer}")
    return took, answer


def _call_ms(api: Api, function_id: str, _turn: int) -> float:
    return _call(api, function_id)[0]


def _over(api: Api, function_id: str, _turn: int) -> float:
    took, answer = _call(api, function_id)
    return took - answer["attempts"][-1]["durationMs"]


def _cold(api: Api, function_id: str, _turn: int) -> float:
    # An end user's instance serves nobody else, so that none is there.
    took, answer = _call(api, function_id, userId=f"user-{time.monotonic_ns()}")
    if answer["attempts"][-1]["start"] == "warm":
        raise RuntimeError("there was an instance")
    return took


def _deploy(api: Api, function_id: str, turn: int) -> float:
    begun = time.monotonic()
    source = _source(f"{CODE}# {turn} {time.monotonic_ns()}\n")
    number = api.post(f"/v1/functions/{function_id}/versions", {"source": source})["version"]
    until(partial(_is_ready, api, function_id, number), READY_S, "the version is live")
    _, answer = _call(api, function_id)
    if answer["version"] != number:
        raise RuntimeError("an old version answered")
    return (time.monotonic() - begun) * 1000


def _rollback(api: Api, function_id: str, _turn: int) -> float:
    """To the version before, and back for the next turn."""
    live = api.get(f"/v1/functions/{function_id}")["liveVersion"]
    begun = time.monotonic()
    path = f"/v1/functions/{function_id}/promote"
    api.post(path, {"version": live - 1})
    _, answer = _call(api, function_id)
    took = (time.monotonic() - begun) * 1000
    if answer["version"] != live - 1:
        raise RuntimeError("the new version answered")
    api.post(path, {"version": live})
    return took


def _is_ready(api: Api, function_id: str, number: int) -> bool:
    version = api.get(f"/v1/functions/{function_id}/versions/{number}")
    if version["state"] == "failed":
        raise RuntimeError(f"the version failed: {version['error']}")
    return version["state"] == "ready"


def _source(code: str) -> Json:
    return {"files": [{"dir": ".", "name": "main.py", "content": code}]}


def table(rows: Sequence[Row]) -> str:
    """Return the rows in Markdown."""
    lines = ["| | median | p95 | goal |", "|---|---|---|---|"]
    for row in rows:
        told = summarise(row.values)
        median, p95 = (f"{value:.0f} {row.unit}" for value in (told.median, told.p95))
        lines.append(f"| {row.name} | {median} | {p95} | {row.goal} |")
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
