"""``python -m benchmarks.events``: how many events are accepted in a second, with what each leads
to, and whether any is lost or doubled. See docs/benchmarks.md.

There are fifty triggers, of which each event meets one in ten. The work that is made waits: the
server has nobody to do it, and does not look for any.
"""

import argparse
import asyncio
import contextlib
import http.client
import json
import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from sqlalchemy import func, insert, select
from tests.acceptance.api import Api
from tests.acceptance.waiting import until
from tests.integration.ports import reserved_port
from tests.integration.server import postgres

from benchmarks.ending import ended_by_signals
from cakework.domain.ids import new_trigger_id
from cakework.server.__main__ import main as serve
from cakework.server.clock import now_ms
from cakework.server.functions.dispatch import DispatchLoop
from cakework.server.store.automation_models import EventRow, TriggerRow
from cakework.server.store.database import Database, database_url
from cakework.server.store.function_models import InvocationRow
from cakework.settings import Settings

TRIGGERS, TYPES = 50, 10
CLIENTS = 4
REPEATED_EVERY = 5
START_S = 60.0
Json = dict[str, object]


@dataclass
class Sent:
    """What clients were told."""

    new: set[str] = field(default_factory=set[str])
    duplicates: int = 0
    missed: int = 0
    """Repetitions that were not told to be such."""
    refused: int = 0
    took_ms: list[float] = field(default_factory=list[float])
    lock: threading.Lock = field(default_factory=threading.Lock)


@dataclass(frozen=True)
class Row:
    """What one case came to."""

    name: str
    events_per_s: float
    made_per_s: float
    median_ms: float
    cpu_ms: float
    """Of the server's processor time for an event, with its invocations: what others at work on
    the machine hardly change."""
    duplicates: int
    lost: int
    doubled: int


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="benchmarks.events", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="of each case (default 20)")
    parser.add_argument("--stores", default="sqlite,postgresql", help="which stores")
    parser.add_argument("--batches", default="1,100", help="events in a request, of each case")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        return _serve()
    stores, sizes = options.stores.split(","), [int(each) for each in options.batches.split(",")]
    _say(f"load of this machine before: {os.getloadavg()[0]:.1f}")
    rows: list[Row] = []
    with ended_by_signals(), contextlib.ExitStack() as held:
        cluster: postgres.Cluster | None = None
        if "postgresql" in stores and postgres.BIN.exists():
            cluster = held.enter_context(postgres.running_cluster(durable=True))
            cluster.folder.chmod(0o755)
        for store in stores:
            if store == "postgresql" and cluster is None:
                _say("PostgreSQL is not installed: not measured")
                continue
            for size in sizes:
                settings: dict[str, str] = {}
                if cluster is not None and store == "postgresql":
                    url = held.enter_context(_database(cluster))
                    settings = {"DATABASE_URL": url}
                rows.append(measured(f"{store}, {size} a request", settings, size, options.seconds))
                _say(f"{rows[-1]}")
    print(table(rows))
    return 0


@contextlib.contextmanager
def _database(cluster: postgres.Cluster) -> Generator[str]:
    """Give the URL of a database of its own."""
    name = f"events_{secrets.token_hex(4)}"
    psql = [postgres.BIN / "psql", "-h", cluster.folder, "-U", postgres.USER, "-q"]
    subprocess.run([*psql, "-c", f"CREATE DATABASE {name}"], check=True)
    yield cluster.url(name)


def measured(name: str, settings: Mapping[str, str], size: int, seconds: float) -> Row:
    """Emit for a while, and look at what is on record after."""
    with _serving(settings) as (api, kept, pid):
        _prepare(api, kept)
        sent, begun, used_s = Sent(), time.monotonic(), _cpu_s(pid)
        with ThreadPoolExecutor(CLIENTS) as clients:
            for _ in range(CLIENTS):
                clients.submit(_emit, api, sent, size, begun + seconds)
        took, used_s = time.monotonic() - begun, _cpu_s(pid) - used_s
        return asyncio.run(_row(name, sent, took, used_s, kept))


def _cpu_s(pid: int) -> float:
    """Return how long a process has had processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _serving(settings: Mapping[str, str]) -> Generator[tuple[Api, Settings, int]]:
    """Serve with nothing but a store."""
    with contextlib.ExitStack() as held:
        folder = Path(held.enter_context(tempfile.TemporaryDirectory(prefix="cakework-bench-")))
        port, key = held.enter_context(reserved_port()), f"cw_{secrets.token_urlsafe(32)}"
        own = {
            "DATA_DIR": str(folder),
            "PORT": str(port),
            "API_KEY": key,
            "LOG_LEVEL": "error",
            "MAX_EVENTS_MB_PER_ACCOUNT": "1024",
            **settings,
        }
        (folder / "run").mkdir()
        environment = {**os.environ, **{f"CAKEWORK_{each}": own[each] for each in own}}
        server = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.events", "--serve"], env=environment
        )
        held.callback(_end, server)
        api = held.enter_context(Api(f"http://127.0.0.1:{port}", "", key))

        def answers() -> bool:
            with contextlib.suppress(httpx2.TransportError):
                return api.http.get("/v1/functions").is_success
            return False

        until(answers, START_S, "the server answers")
        yield api, Settings(data_dir=folder, database_url=settings.get("DATABASE_URL")), server.pid


def _serve() -> int:
    """Be the server, without dispatch."""

    async def one_pass(self: DispatchLoop) -> None:
        """Look for nothing."""

    DispatchLoop.one_pass = one_pass
    serve()
    return 0


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    server.wait(START_S)


def _prepare(api: Api, kept: Settings) -> None:
    """Make fifty functions, with a trigger each."""
    ids = [
        api.post("/v1/functions", {"name": f"f{n}", "runtime": "python3.11"})["id"]
        for n in range(TRIGGERS)
    ]
    now = now_ms()
    rows = [
        {
            "id": new_trigger_id(),
            "account_id": "default",
            "function_id": function_id,
            "type": "event",
            "config": json.dumps({"types": ["order.*"]}),
            "filter": json.dumps(
                {"data": {"kind": [number % TYPES], "total": [{"numeric": [">", 1]}]}}
            ),
            "created_ms": now,
            "updated_ms": now,
        }
        for number, function_id in enumerate(ids)
    ]

    async def write() -> None:
        database = Database(database_url(kept))
        async with database.writing() as session:
            await session.execute(insert(TriggerRow), rows)
        await database.close()

    asyncio.run(write())


def _emit(api: Api, sent: Sent, size: int, until_s: float) -> None:
    """Emit as fast as may be; one request in five is said again."""
    address = urlsplit(api.url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)
    headers = {"X-Api-Key": api.key, "Content-Type": "application/cloudevents-batch+json"}
    count = 0
    while time.monotonic() < until_s:
        count += 1
        events = [_event() for _ in range(size)]
        body = json.dumps(events)
        for turn in range(2 if count % REPEATED_EVERY == 0 else 1):
            begun = time.monotonic()
            connection.request("POST", "/v1/events", body, headers)
            answer = connection.getresponse()
            told = json.loads(answer.read())
            took = (time.monotonic() - begun) * 1000
            with sent.lock:
                sent.took_ms.append(took)
                if answer.status != 202:
                    sent.refused += 1
                    _say(f"refused: {told}")
                elif turn:
                    duplicates = sum(each["duplicate"] for each in told["events"])
                    sent.duplicates += duplicates
                    sent.missed += size - duplicates
                else:
                    sent.new |= {each["id"] for each in told["events"] if not each["duplicate"]}
    connection.close()


def _event() -> Json:
    number = secrets.randbelow(1 << 62)
    return {
        "id": f"{number}",
        "source": "/shop",
        "type": "order.paid",
        "subject": f"order-{number}",
        "data": {"kind": number % TYPES, "total": 120, "items": [{"sku": "a", "count": 2}] * 3},
    }


async def _row(name: str, sent: Sent, took_s: float, used_s: float, kept: Settings) -> Row:
    database = Database(database_url(kept))
    async with database.reading() as session:
        events = set(await session.scalars(select(EventRow.id)))
        query = select(InvocationRow.event_id, func.count()).group_by(InvocationRow.event_id)
        made = {each[0]: each[1] for each in await session.execute(query)}
    await database.close()
    each_makes = TRIGGERS // TYPES
    lost = len(sent.new - events) + sum(max(0, each_makes - made.get(e, 0)) for e in sent.new)
    doubled = len(events - sent.new) + sum(max(0, n - each_makes) for n in made.values())
    return Row(
        name,
        len(sent.new) / took_s,
        sum(made.values()) / took_s,
        sorted(sent.took_ms)[len(sent.took_ms) // 2],
        used_s * 1000 / max(1, len(sent.new)),
        sent.duplicates,
        lost,
        doubled + sent.missed,
    )


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| | events /s | invocations /s | a request | CPU of one | duplicates | lost | doubled |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.name} | {row.events_per_s:.0f} | {row.made_per_s:.0f} | "
            f"{row.median_ms:.0f} ms | {row.cpu_ms:.2f} ms | {row.duplicates} | {row.lost} | "
            f"{row.doubled} |"
        )
    return "\n".join(lines)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
