import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakework.domain.facts import VmLine
from cakework.server.logs import file, removal
from cakework.server.logs.lines import LineQuery, Order, Source, vm_source
from tests.properties import examples

from .test_log_file import in_memory


@pytest.fixture
def log(tmp_path: Path) -> Generator[sqlite3.Connection]:
    connection = file.connect(tmp_path / "logs.db")
    file.make_tables(connection)
    yield connection
    connection.close()


@pytest.fixture
def short_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps so short that a few lines take several."""
    monkeypatch.setattr(removal, "LOGS_A_STEP", 2)
    monkeypatch.setattr(removal, "LINES_A_STEP", 3)


def add(log: sqlite3.Connection, vm_id: str, *at_ms: int, text: str = "x") -> Source:
    """Store a VM's next lines, printed at these times."""
    source = vm_source(vm_id)
    last = log.execute("SELECT last_seq FROM sources WHERE name = ?", (source.name,)).fetchone()
    first = int(last[0]) + 1 if last else 1
    lines = [
        VmLine(
            vm_id=vm_id,
            seq=first + place,
            stream="stdout",
            text=text,
            at_ms=at,
        )
        for place, at in enumerate(at_ms)
    ]
    file.append(log, lines, file.Kept(100_000, 1 << 40), {source: "default"})
    return source


def remove_all_before(log: sqlite3.Connection, before_ms: int) -> int:
    """Remove in as many steps as it takes; return how many those were."""
    behind: int | None = 0
    steps = 0
    while behind is not None:
        behind = removal.remove_before(log, before_ms, behind)
        steps += 1
    return steps


def left(log: sqlite3.Connection, source: Source) -> list[int]:
    return [line.seq for line in file.page(log, LineQuery(source, batch=1000)).lines]


@pytest.mark.usefixtures("short_steps")
def test_lines_of_before_go_in_small_steps(log: sqlite3.Connection) -> None:
    """From every log what is older, and nothing that is not; then there is nothing to do."""
    sources = [add(log, f"vm{number}", *range(number, 12)) for number in range(8)]
    assert remove_all_before(log, 10) > 8
    for number, source in enumerate(sources):
        assert left(log, source) == [11 - number, 12 - number]
    assert remove_all_before(log, 10) <= 5


def test_numbers_go_on_where_they_were(log: sqlite3.Connection) -> None:
    """A log whose lines are all gone goes on with the next number; nothing comes again."""
    source = add(log, "vm", 1, 2, 3)
    remove_all_before(log, 100)
    assert left(log, source) == []
    assert file.span(log, source) is None
    add(log, "vm", 50)
    assert left(log, source) == [4]
    assert file.page(log, LineQuery(source, after=2)).lines[0].seq == 4
    older = LineQuery(source, order=Order.NEWEST_FIRST, after=4)
    assert file.page(log, older).lines == []


@pytest.mark.usefixtures("short_steps")
def test_a_whole_log_goes_and_no_other(log: sqlite3.Connection) -> None:
    """Step by step; one that is not there is gone already."""
    source, other = add(log, "vm", *range(10)), add(log, "other", 1)
    steps = 1
    while not removal.remove_log(log, source):
        steps += 1
    assert steps == 4
    assert left(log, source) == []
    assert log.execute("SELECT name FROM sources").fetchall() == [(other.name,)]
    assert removal.remove_log(log, source)


@given(
    times=st.lists(st.integers(0, 50), min_size=1, max_size=40).map(sorted),
    cuts=st.lists(st.integers(0, 60), max_size=4),
    batch=st.integers(1, 10),
    order=st.sampled_from(Order),
)
@settings(max_examples=examples(60))
def test_paging_over_what_goes_neither_repeats_nor_invents(
    times: list[int], cuts: list[int], batch: int, order: Order
) -> None:
    """Whatever goes between two pages: what is found is in order, once, and all that stayed."""
    log = in_memory()
    source = add(log, "vm", *times)
    query, found, cuts = LineQuery(source, order=order, batch=batch), list[int](), [*cuts]
    cut = 0
    while True:
        page = file.page(log, query)
        found += [line.seq for line in page.lines]
        if not page.more:
            break
        if cuts:
            cut = max(cut, cuts.pop())
            remove_all_before(log, cut)
        query = LineQuery(source, order=order, batch=batch, after=found[-1])
    log.close()
    stayed = {seq for seq, at_ms in enumerate(times, 1) if at_ms >= cut}
    assert found == sorted(set(found), reverse=order is Order.NEWEST_FIRST)
    assert stayed <= set(found) <= set(range(1, len(times) + 1))


def test_the_disk_gets_its_room_back(tmp_path: Path) -> None:
    """Also from a file that was made before lines were removed by age, and had cursors in it."""
    path = tmp_path / "logs.db"
    before = sqlite3.connect(path, isolation_level=None)
    before.execute("PRAGMA journal_mode = WAL")
    before.execute(
        "CREATE TABLE cursors (node_id TEXT PRIMARY KEY, cursor INTEGER NOT NULL) STRICT"
    )
    before.execute("INSERT INTO cursors VALUES ('node-0', 7)")
    before.close()
    log = file.connect(path)
    file.make_tables(log)
    add(log, "vm", *range(1200), text="x" * 1000)
    add(log, "vm", 9000)
    log.execute("PRAGMA wal_checkpoint")
    full = path.stat().st_size
    remove_all_before(log, 5000)
    while removal.give_back(log):
        pass
    assert not removal.give_back(log)
    log.execute("PRAGMA wal_checkpoint")
    assert path.stat().st_size < full / 20
    assert left(log, vm_source("vm")) == [1201]
    log.close()
