"""Time from the startVM request to the first log line, in turns with ``docker run --rm``.

Both run the same command in an image that holds busybox. Each turn waits until both platforms
are at rest, so that neither is measured while the other tidies up. Ours is measured with the
pool that `cakework up` keeps by default, and once more, with --no-pool, restoring on demand.
"""

import argparse
import json
import os
import platform as machine
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from tests.acceptance.api import Api
from tests.acceptance.footprint import at_rest
from tests.acceptance.platform import Platform

from benchmarks.docker_engine import DockerEngine, Run, docker_engine
from benchmarks.series import Summary, ratios, summarise

COMMAND = ("echo", "hello")
DOCKERFILE = f"FROM cakework/busybox\nCMD {json.dumps(COMMAND)}\n"
RESULTS = Path(__file__).parent / "results"
WARM_UPS = 3
WHOLE = ("machine", "run")
"""Phases of the node that follow each other; all others are parts of the first."""


@dataclass(frozen=True)
class Start:
    """One start of ours, in milliseconds; ``phases`` as the server tells them."""

    first_line_ms: float
    answer_ms: float
    phases: dict[str, float]


@dataclass
class Turns:
    """What was measured, turn by turn."""

    ours: list[Start] = field(default_factory=list[Start])
    docker: list[Run] = field(default_factory=list[Run])


def main() -> int:
    """Measure, print a table, keep the numbers."""
    options = _options()
    if os.geteuid() != 0:
        sys.exit("benchmarks/start must be root, as `cakework up` and a Docker engine must be")
    settings = {"POOL_SIZE": "0"} if options.no_pool else {}
    with docker_engine() as docker, _cakework(settings) as ours, ours.api() as api:
        image = api.image(DOCKERFILE)
        _say(f"Docker {docker.version()}; {WARM_UPS} warm-ups and {options.runs} runs of each")
        turns = _measure(ours, api, image, docker, options.runs)
    report = _report(turns, pool=not options.no_pool)
    print(report)
    _keep(turns, options.no_pool)
    return 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=30, help="runs of each (default 30)")
    parser.add_argument("--no-pool", action="store_true", help="keep no machines ahead of time")
    return parser.parse_args()


@contextmanager
def _cakework(settings: dict[str, str]) -> Generator[Platform]:
    folder = Path(tempfile.mkdtemp(prefix="cakework-bench-"))
    folder.chmod(0o755)
    ours = Platform(folder, settings)
    try:
        _say("bringing Cakework up")
        ours.start()
        yield ours
    finally:
        ours.stop()
        shutil.rmtree(folder)


def _measure(ours: Platform, api: Api, image: str, docker: DockerEngine, runs: int) -> Turns:
    turns = Turns()
    for turn in range(-WARM_UPS, runs):
        at_rest(ours)
        start = _start(api, image)
        at_rest(ours)
        run = docker.run(*COMMAND)
        if turn >= 0:
            turns.ours.append(start)
            turns.docker.append(run)
            _say(f"{turn + 1:3}: {start.first_line_ms:4.0f} ms, docker {run.first_line_ms:4.0f} ms")
    return turns


def _start(api: Api, image: str) -> Start:
    begun = time.monotonic()
    answer = api.http.post("/v1/vm/start", json={"imageId": image})
    answered = time.monotonic()
    vm_id = answer.raise_for_status().json()["id"]
    line = next(api.follow(f"/v1/vm/{vm_id}/logs"))
    ended = time.monotonic()
    if line["message"] != COMMAND[1]:
        raise RuntimeError(f"the VM printed {line['message']!r}")
    api.wait_for_state(vm_id, "stopped")
    api.stop(vm_id)
    phases = _phases(answer.headers.get("Server-Timing", ""))
    return Start((ended - begun) * 1000, (answered - begun) * 1000, phases)


def _phases(header: str) -> dict[str, float]:
    """Return what a ``Server-Timing`` header says: name to milliseconds."""
    phases: dict[str, float] = {}
    for metric in filter(None, header.split(",")):
        name, _, rest = metric.strip().partition(";dur=")
        phases[name] = float(rest)
    return phases


def _report(turns: Turns, *, pool: bool) -> str:
    ours = [start.first_line_ms for start in turns.ours]
    docker = [run.first_line_ms for run in turns.docker]
    whole = [run.end_ms for run in turns.docker]
    rows = [
        ("Cakework: request to first line", summarise(ours), "ms"),
        ("docker run: to its first line", summarise(docker), "ms"),
        ("docker run --rm: to its end", summarise(whole), "ms"),
        ("ratio, to first line", summarise(ratios(ours, docker)), ""),
        ("ratio, docker to its end", summarise(ratios(ours, whole)), ""),
    ]
    kind = "with machines kept ahead of demand" if pool else "restored on demand"
    lines = [
        f"{machine.machine()}, {os.cpu_count()} processors, {kind}, {len(ours)} runs in turns",
        "",
        "| | median | p95 | least | most |",
        "|---|---|---|---|---|",
        *(_row(name, summary, unit) for name, summary, unit in rows),
        "",
        "| Where our milliseconds go | median | p95 |",
        "|---|---|---|",
        *(f"| {name} | {s.median:.1f} | {s.p95:.1f} |" for name, s in _where(turns.ours)),
    ]
    return "\n".join(lines)


def _row(name: str, summary: Summary, unit: str) -> str:
    values = (summary.median, summary.p95, summary.least, summary.most)
    cells = (f"{value:.0f} {unit}" if unit else f"{value:.2f}" for value in values)
    return f"| {name} | {' | '.join(cells)} |"


def _where(starts: list[Start]) -> Iterator[tuple[str, Summary]]:
    """Yield every part of a start, and below each part what it consists of, where that is told."""
    parts = [name for name in starts[0].phases if name not in WHOLE]
    for part in WHOLE:
        yield f"node: {part}", summarise([start.phases[part] for start in starts])
        for name in parts if part == "machine" else ():
            yield f"… of it {name}", summarise([start.phases[name] for start in starts])
    rest = [start.answer_ms - sum(start.phases[part] for part in WHOLE) for start in starts]
    yield "server: HTTP, key, store", summarise(rest)
    yield "answer to first line", summarise([s.first_line_ms - s.answer_ms for s in starts])


def _keep(turns: Turns, no_pool: bool) -> None:
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    kept = {
        "at": now.isoformat(),
        "commit": commit.stdout.strip(),
        "processors": os.cpu_count(),
        "pool": not no_pool,
        **asdict(turns),
    }
    path = RESULTS / f"start-{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(kept, indent=1))
    _say(f"all numbers: {path}")


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
