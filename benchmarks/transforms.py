"""``python -m benchmarks.transforms``: what a transform adds to its handler.

Many records of JSON, line by line, through applyTransform, and through a pipe into a process that
does the same without Cakework, in turns; then single records, warm, against the handler's own time.
The server is a process of its own; the node is a stand-in that runs the runtime's adapter on this
machine in the place of a VM, so what a VM's network adds is not in it. Needs neither root nor a VM.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import httpx2
from tests.integration.server.function_node import FunctionNode, Loaded
from tests.integration.server.processes import serving
from tests.integration.server.rig import KEY, settings_for
from tests.integration.server.test_functions import Functions, served

from benchmarks.series import summarise

GOAL_TIMES = 2.0
GOAL_MS = 15.0
HANDLER = """\
def transform(record):
    record["total"] = round(record["price"] * record["count"], 2)
    record["name"] = record["name"].title()
    return record
"""
PIPED = (
    HANDLER
    + """
import json, sys
for line in sys.stdin:
    sys.stdout.write(json.dumps(transform(json.loads(line)), separators=(",", ":")) + "\\n")
"""
)
WARMING = 50
PIECE_LINES = 500


def main() -> None:
    """Measure, and print what came of it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.transforms", description=__doc__)
    parser.add_argument("--records", type=int, default=100_000, help="of a stream")
    parser.add_argument("--runs", type=int, default=5, help="of each, in turns (default 5)")
    parser.add_argument("--calls", type=int, default=500, help="of one record each")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="cw-", dir="/tmp") as folder:
        asyncio.run(_measure(Path(folder), given.records, given.runs, given.calls))


async def _measure(folder: Path, records: int, runs: int, calls: int) -> None:
    settings = settings_for(folder / "data", None)
    (folder / "vms").mkdir()
    lines = [_record(number) for number in range(records)]
    pieces = [
        b"".join(lines[first : first + PIECE_LINES]) for first in range(0, records, PIECE_LINES)
    ]
    async with FunctionNode(settings, folder / "vms").hosting() as node:
        async with served(folder / "data", node, None) as functions:
            function_id = await _made(functions)

        async def loaded(_: str) -> Loaded:
            return Loaded("main.py", "", 1)

        node.loaded = loaded
        async with serving(settings, node) as process:
            client = process.rig.client
            url = httpx2.URL(str(client.base_url))
            single = [await _single(client, function_id) for _ in range(WARMING + calls)]
            _tell_single(single[WARMING:])
            piped, applied = list[Took](), list[Took]()
            for _ in range(runs):
                piped.append(await _piped(pieces, records))
                pids = [each.process.pid for each in node.hosted.values()]
                pids.append(process.process.pid)
                applied.append(await _applied(url, function_id, pieces, records, pids))
            _tell(records, piped, applied)


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of the clock, and of processors: of all processes but the one that sends."""

    clock_s: float
    cpu_s: float

    @classmethod
    def since(cls, began_s: float, cpu_s: float) -> Self:
        """Return what was taken since a time; ``cpu_s`` is known."""
        return cls(time.perf_counter() - began_s, cpu_s)


def _cpu_s(pids: list[int]) -> float:
    fields = (Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids)
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


async def _made(functions: Functions) -> str:
    settings = {"timeoutMs": 30_000, "idleTimeout": 3600}
    return await functions.made(HANDLER, kind="transform", settings=settings)


def _record(number: int) -> bytes:
    told = {
        "id": number,
        "name": f"item number {number}",
        "price": number % 1000 / 7,
        "count": number % 13,
        "tags": ["a", "b"],
    }
    return json.dumps(told, separators=(",", ":")).encode() + b"\n"


async def _piped(pieces: list[bytes], records: int) -> Took:
    """Return what it takes through a pipe."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PIPED),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None:
        raise TypeError("a process without pipes takes nothing")
    writer, reader = process.stdin, process.stdout
    # What its start takes is not the transform's.
    writer.write(pieces[0])
    got = 0
    while got < PIECE_LINES and got < records:
        got += (await reader.read(1 << 16)).count(b"\n")
    began, before_s = time.perf_counter(), _cpu_s([process.pid])

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        # What it still holds back of a line is written at the end of its input.
        writer.write(pieces[0])

    sending = asyncio.create_task(send())
    count = 0
    while count < records:
        count += (await reader.read(1 << 16)).count(b"\n")
    took = Took.since(began, _cpu_s([process.pid]) - before_s)
    await sending
    writer.close()
    while await reader.read(1 << 16):
        pass
    await process.wait()
    return took


async def _applied(
    url: httpx2.URL, function_id: str, pieces: list[bytes], records: int, pids: list[int]
) -> Took:
    """Return what it takes through applyTransform; of ``pids`` are server and adapter."""
    reader, writer = await asyncio.open_connection(url.host, url.port)
    head = (
        f"POST /v1/transforms/{function_id}/apply HTTP/1.1\r\nHost: localhost\r\n"
        f"X-Api-Key: {KEY}\r\nContent-Type: application/x-ndjson\r\n"
        f"Content-Length: {sum(len(piece) for piece in pieces)}\r\nConnection: close\r\n\r\n"
    )
    began, before_s = time.perf_counter(), _cpu_s(pids)
    writer.write(head.encode())

    async def send() -> None:
        for piece in pieces:
            writer.write(piece)
            await writer.drain()

    sending = asyncio.create_task(send())
    count, last = 0, b""
    await reader.readuntil(b"\r\n\r\n")
    while data := await reader.read(1 << 16):
        count += data.count(b"}\n")
        count += last == b"}" and data[:1] == b"\n"
        last = data[-1:]
    took = Took.since(began, _cpu_s(pids) - before_s)
    await sending
    writer.close()
    assert count == records, count
    return took


async def _single(client: httpx2.AsyncClient, function_id: str) -> float:
    """Return the milliseconds that one record takes."""
    record = json.loads(_record(7))
    began = time.perf_counter()
    response = await client.post(f"/v1/transforms/{function_id}/apply", json=record)
    took_ms = (time.perf_counter() - began) * 1000
    assert response.status_code == 200, response.text
    return took_ms


def _tell_single(times: list[float]) -> None:
    told = summarise(times)
    print(
        f"one record, warm: median {told.median:.1f} ms, p95 {told.p95:.1f} ms "
        f"(the handler itself takes some microseconds; goal: median {GOAL_MS:g} ms over it)"
    )


def _tell(records: int, piped: list[Took], applied: list[Took]) -> None:
    pipe, apply = (summarise([each.clock_s for each in some]).median for some in (piped, applied))
    print(
        f"{records} records: through a pipe {pipe:.2f} s, applied {apply:.2f} s: "
        f"{apply / pipe:.2f} times as long (medians of {len(piped)}; goal: {GOAL_TIMES:g})"
    )
    pipe, apply = (summarise([each.cpu_s for each in some]).median for some in (piped, applied))
    print(f"processor time: {pipe:.2f} s of the piped process, {apply:.2f} s of server and adapter")


if __name__ == "__main__":
    main()
