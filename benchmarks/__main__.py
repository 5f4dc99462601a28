"""``python -m benchmarks``: measure, print tables, keep the numbers. See docs/benchmarks.md."""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

from benchmarks import bursts, github_builds, imports, python_sdk, services, starts
from benchmarks.comparison import Case, Result, compare
from benchmarks.ending import ended_by_signals
from benchmarks.memory import Memory, idle_memory
from benchmarks.report import report, results_as_json
from benchmarks.site import say, site

RESULTS = Path(__file__).parent / "results"
CASES: dict[str, Case] = {
    "start": starts.start,
    "start-podman": starts.start_podman,
    "start-qemu": starts.start_qemu,
    "cached-boot": starts.cached_boot,
    "fresh": services.fresh,
    "ready": services.ready,
    "wake": services.wake,
    "fork": services.fork,
    "round-trip": services.round_trip,
    "burst": bursts.burst,
    "github": github_builds.github,
    "import": imports.imported,
    "python-import": python_sdk.python_import,
}
NO_POOL: dict[str, str] = {"POOL_SIZE": "0", "POOL_SNAPSHOTS": "0", "POOL_NETWORKS": "0"}
ON_DEMAND = ("start", "cached-boot", "ready", "wake", "burst")
"""Cases that are measured once more with no machine made ahead of time."""
MEMORY = "memory"


def main() -> int:
    """Measure what is asked for; print the tables and keep the numbers."""
    options = _options()
    if os.geteuid() != 0:
        sys.exit("benchmarks must be run as root, as `cakework up` and a Docker engine must be")
    with ended_by_signals():
        _run(options.only or [*CASES, MEMORY], options.turns)
    return 0


def _run(wanted: list[str], turns: int) -> None:
    results, memory = _measure({}, [name for name in CASES if name in wanted], turns, wanted)
    on_demand = [name for name in ON_DEMAND if name in wanted]
    unpooled, _ = _measure(NO_POOL, on_demand, turns, []) if on_demand else ([], [])
    print(report(results, unpooled, memory))
    _keep(results, unpooled, memory)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="benchmarks/run", description="Compare with peers.")
    parser.add_argument("--turns", type=int, default=15, help="turns of each case (default 15)")
    parser.add_argument(
        "--only", action="append", choices=[*CASES, MEMORY], help="a case; may be repeated"
    )
    return parser.parse_args()


def _measure(
    settings: dict[str, str], names: Iterable[str], turns: int, wanted: list[str]
) -> tuple[list[Result], list[Memory]]:
    with site(settings) as made:
        say(f"Docker {made.docker.version()}, pool {'off' if settings else 'on'}")
        results = [compare(name, CASES[name], made, turns) for name in names]
        return results, idle_memory(made) if MEMORY in wanted else []


def _keep(results: list[Result], unpooled: list[Result], memory: list[Memory]) -> None:
    RESULTS.mkdir(exist_ok=True)
    now = datetime.now(UTC)
    path = RESULTS / f"{now:%Y%m%dT%H%M%SZ}.json"
    path.write_text(json.dumps(results_as_json(now, results, unpooled, memory), indent=1))
    say(f"all numbers: {path}")


if __name__ == "__main__":
    sys.exit(main())
