"""The log of a function in the log file: the lines of its VMs, in the order in which they came."""

import sqlite3
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakework.domain.facts import VmLine
from cakework.server.logs import file, ledger, removal
from cakework.server.logs.lines import LineQuery, Order, function_source, vm_source
from cakework.server.logs.search import Bounds
from cakework.server.logs.stretches import NO_STRETCHES, Stretches, notice
from tests.properties import examples

from .test_log_file import in_memory

OURS, OTHER = function_source("fn_ours"), function_source("fn_other")
FUNCTIONS = {vm_source("a"): OURS, vm_source("b"): OURS, vm_source("c"): OTHER}
ACCOUNTS = {vm_source(vm): "account" for vm in "abcd"}


@pytest.fixture
def log(tmp_path: Path) -> Generator[sqlite3.Connection]:
    connection = file.connect(tmp_path / "logs.db")
    file.make_tables(connection)
    yield connection
    connection.close()


def lines(vm_id: str, first: int, count: int, at_ms: int = 1000) -> list[VmLine]:
    return [
        VmLine(vm_id=vm_id, seq=seq, stream="stdout", text=f"{vm_id}{seq}", at_ms=at_ms)
        for seq in range(first, first + count)
    ]


def add(
    log: sqlite3.Connection,
    batch: Sequence[VmLine],
    stretches: Stretches = NO_STRETCHES,
    keep: int = 1000,
) -> set[str]:
    kept = file.Kept(keep, 1 << 40)
    grown = file.append(log, batch, kept, ACCOUNTS, FUNCTIONS, stretches)
    return {source.name for source in grown}


def texts(log: sqlite3.Connection, query: LineQuery) -> list[str]:
    return [line.text for line in file.page(log, query).lines]


def test_lines_of_several_vms_are_in_the_order_in_which_they_came(log: sqlite3.Connection) -> None:
    """Also within what came at once; other functions' and other VMs' lines are not among them."""
    a, b, c, d = (lines(vm, 1, 3) for vm in "abcd")
    assert add(log, [a[0], d[0], b[0], c[0], a[1], b[1]]) == {
        *("vm:a", "vm:b", "vm:c", "vm:d"),
        *(OURS.name, OTHER.name),
    }
    add(log, [b[2], c[1], a[2], a[1]])
    page = file.page(log, LineQuery(OURS))
    assert [line.text for line in page.lines] == ["a1", "b1", "a2", "b2", "b3", "a3"]
    assert [line.number for line in page.lines] == [1, 2, 3, 4, 5, 6]
    assert [(line.vm_id, line.seq) for line in page.lines][-2:] == [("b", 3), ("a", 3)]
    assert texts(log, LineQuery(OTHER)) == ["c1", "c2"]
    assert texts(log, LineQuery(vm_source("b"))) == ["b1", "b2", "b3"]
    assert file.last_seq(log, OURS) == 6


def test_pages_searches_and_bounds_go_by_the_functions_numbers(log: sqlite3.Connection) -> None:
    for vm in "ab":
        add(log, lines(vm, 1, 100))
    page = file.page(log, LineQuery(OURS, batch=50, after=70))
    assert (page.more, page.through) == (True, 120)
    assert [line.text for line in page.lines][29:31] == ["a100", "b1"]
    newest = file.page(log, LineQuery(OURS, order=Order.NEWEST_FIRST, batch=50, after=101))
    assert newest.lines[0].text == "a100"
    assert texts(log, LineQuery(OURS, contains="A10")) == ["a10", "a100"]
    looked = file.page(log, LineQuery(OURS, contains="b99"), Bounds(text_bytes=10))
    assert (looked.lines, looked.more) == ([], True)
    after = file.page(log, LineQuery(OURS, contains="b99", after=looked.through))
    assert [line.text for line in after.lines] == ["b99"]
    assert texts(log, LineQuery(vm_source("a"), first=3, last=5)) == ["a3", "a4", "a5"]


def test_a_time_is_found_in_the_order_of_arrival(log: sqlite3.Connection) -> None:
    """A line that came late counts as of when it came, and keeps the time that it has."""
    add(log, lines("a", 1, 2, at_ms=1000))
    add(log, lines("b", 1, 1, at_ms=500))
    add(log, lines("a", 3, 1, at_ms=2000))
    assert texts(log, LineQuery(OURS, from_ms=1000, to_ms=1000)) == ["a1", "a2", "b1"]
    assert texts(log, LineQuery(OURS, from_ms=1001)) == ["a3"]
    assert texts(log, LineQuery(OURS, to_ms=999)) == []
    assert [line.at_ms for line in file.page(log, LineQuery(OURS)).lines] == [1000, 1000, 500, 2000]
    assert file.span(log, OURS) == (1000, 2000)


def test_what_goes_from_a_vms_log_goes_from_its_functions(log: sqlite3.Connection) -> None:
    """And no number is given twice."""
    add(log, [*lines("a", 1, 2), *lines("b", 1, 2)])
    assert removal.remove_log(log, vm_source("a"))
    assert texts(log, LineQuery(OURS)) == ["b1", "b2"]
    removal.remove_before(log, 5000, 0)
    assert texts(log, LineQuery(OURS)) == []
    add(log, lines("b", 3, 1, at_ms=6000))
    assert [line.number for line in file.page(log, LineQuery(OURS)).lines] == [5]


def test_lines_of_functions_count_with_what_they_take_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "logs.db"
    log = file.connect(path)
    file.make_tables(log)
    for first in range(1, 20_001, 1000):
        add(log, lines("a", first, 1000), keep=100_000)
    counted = ledger.taken(log, "account")
    log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    log.close()
    assert counted == sum(ledger.size_of(f"a{n}", of_function=True) for n in range(1, 20_001))
    assert path.stat().st_size < 1.25 * counted + 40_000


def test_of_each_stretch_the_first_lines_are_kept_and_one_says_so(log: sqlite3.Connection) -> None:
    """Whichever batches they come in, and although the next stretch is told of before they do."""
    stretches = Stretches(10)
    stretches.begin(vm_source("a"), 5)
    stretches.begin(vm_source("a"), 40)
    for first in range(1, 61, 7):
        add(log, lines("a", first, 7), stretches)
    expected = [f"a{n}" for n in range(1, 16)] + [notice(10)]
    expected += [f"a{n}" for n in range(41, 51)] + [notice(10)]
    assert texts(log, LineQuery(vm_source("a"))) == expected
    assert texts(log, LineQuery(OURS)) == expected
    assert file.last_seq(log, vm_source("a")) == 63
    # Those that are sent again are known, though they are not there.
    assert add(log, lines("a", 20, 5), stretches) == set()
    assert "10 lines" in notice(10)


def test_lines_that_were_left_out_push_no_others_out(log: sqlite3.Connection) -> None:
    """A log keeps its newest lines by how many there are, not by their numbers."""
    stretches = Stretches(10)
    stretches.begin(vm_source("a"), 0)
    add(log, lines("a", 1, 5000), stretches, keep=30)
    stretches.begin(vm_source("a"), 5000)
    add(log, lines("a", 5001, 15), stretches, keep=30)
    kept = [f"a{n}" for n in range(1, 11)] + [notice(10)]
    kept += [f"a{n}" for n in range(5001, 5011)] + [notice(10)]
    assert texts(log, LineQuery(vm_source("a"))) == kept
    for first in range(5016, 7100, 40):
        stretches.begin(vm_source("a"), first - 1)
        add(log, lines("a", first, 40), stretches, keep=30)
    assert len(texts(log, LineQuery(vm_source("a"), batch=1000))) <= 30 + 11 * 25
    assert texts(log, LineQuery(vm_source("a"), batch=1000))[0] != "a1"


def test_what_is_known_of_stretches_is_bounded() -> None:
    stretches = Stretches(10)
    for vm in range(12_000):
        stretches.begin(vm_source(f"{vm}"), 0)
    assert stretches.of(vm_source("1")).over(100) == 0
    assert stretches.of(vm_source("11999")).over(100) == 90
    for last in range(0, 10_000, 20):
        stretches.begin(vm_source("a"), last)
    begun = stretches.of(vm_source("a"))
    assert (len(begun.behind), begun.over(9995), begun.over(8000)) == (64, 5, 0)


@given(
    batches=st.lists(
        st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=20), max_size=8
    )
)
@settings(max_examples=examples(40))
def test_a_functions_log_is_its_vms_logs(batches: list[list[tuple[str, bool]]]) -> None:
    """Whatever comes, each line is in it once, and of each VM in order; and so is each notice."""
    log, seqs, stretches = in_memory(), dict.fromkeys("abc", 0), Stretches(3)
    came: list[str] = []
    for batch in batches:
        facts: list[VmLine] = []
        for vm, begins in batch:
            if begins:
                stretches.begin(vm_source(vm), seqs[vm])
            seqs[vm] += 1
            facts += lines(vm, seqs[vm], 1)
        add(log, facts, stretches)
    for function, vms in ((OURS, "ab"), (OTHER, "c")):
        page = file.page(log, LineQuery(function, batch=1000))
        came = [f"{line.vm_id}{line.seq}" for line in page.lines]
        stored = {
            f"{vm}{line.seq}"
            for vm in vms
            for line in file.page(log, LineQuery(vm_source(vm), batch=1000)).lines
        }
        assert (set(came), len(came)) == (stored, len(stored))
        assert [line.number for line in page.lines] == list(range(1, len(came) + 1))
    log.close()
