"""What is printed of results, as Markdown, and what is kept of them, as JSON."""

import os
import platform
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from datetime import datetime
from typing import Any

from benchmarks.comparison import Result
from benchmarks.memory import Memory
from benchmarks.series import summarise


def report(pooled: Sequence[Result], unpooled: Sequence[Result], memory: Sequence[Memory]) -> str:
    """Return tables: of both kinds of site, of memory, and of where our time went."""
    lines = [f"{platform.machine()}, {os.cpu_count()} processors"]
    if pooled:
        lines += ["", "With machines kept ahead of demand:", "", *_comparisons(pooled)]
    if unpooled:
        lines += ["", "With none kept ahead:", "", *_comparisons(unpooled)]
    if memory:
        lines += ["", "Memory of an idle VM of 256 MB, QEMU included:", "", *_memory(memory)]
    for result in (*pooled, *unpooled):
        if result.parts:
            lines += ["", f"Where the time of `{result.case}` goes:", "", *_parts(result)]
    return "\n".join(lines)


def results_as_json(
    at: datetime, pooled: Sequence[Result], unpooled: Sequence[Result], memory: Sequence[Memory]
) -> dict[str, Any]:
    """Return every number, with what is needed to place it."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return {
        "at": at.isoformat(),
        "commit": commit.stdout.strip(),
        "processors": os.cpu_count(),
        "pooled": [asdict(result) for result in pooled],
        "unpooled": [asdict(result) for result in unpooled],
        "memory": [asdict(each) for each in memory],
    }


def _comparisons(results: Iterable[Result]) -> list[str]:
    head = "| | ours: median | p95 | peer: median | p95 | | ratio: median | p95 | goal |"
    return [head, "|---|---|---|---|---|---|---|---|---|", *map(_comparison, results)]


def _comparison(result: Result) -> str:
    ours, peer = summarise([taken.ms for taken in result.ours]), summarise(result.peer)
    goal = "" if result.goal is None else f"≤ {result.goal:g}"
    cells = [
        result.ours_name,
        *(f"{ms:.0f} ms" for ms in (ours.median, ours.p95, peer.median, peer.p95)),
        result.peer_name,
        f"{result.ratio.median:.2f}",
        f"{result.ratio.p95:.2f}",
        goal,
    ]
    return f"| {' | '.join(cells)} |"


def _memory(memory: Iterable[Memory]) -> list[str]:
    rows = (
        f"| {each.kind} | {each.private_mb.median:.0f} MB | {each.private_mb.p95:.0f} MB | "
        f"{each.shared_mb.median:.0f} MB |"
        for each in memory
    )
    return ["| | private: median | p95 | shared: median |", "|---|---|---|---|", *rows]


def _parts(result: Result) -> list[str]:
    rows = (f"| {name} | {s.median:.1f} | {s.p95:.1f} |" for name, s in result.parts.items())
    return ["| ms | median | p95 |", "|---|---|---|", *rows]
