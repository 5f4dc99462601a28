import sqlite3
from collections.abc import Generator
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakework.domain.facts import VmLine
from cakework.server.logs import file, search
from cakework.server.logs.lines import LineQuery, Order, vm_source
from cakework.server.logs.search import Bounds
from cakework.server.logs.tokens import next_token, resume
from tests.properties import examples

VM = "0123456789abcd"
SOURCE = vm_source(VM)


@pytest.fixture
def log(tmp_path: Path) -> Generator[sqlite3.Connection]:
    connection = file.connect(tmp_path / "logs.db")
    file.make_tables(connection)
    yield connection
    connection.close()


def in_memory() -> sqlite3.Connection:
    connection = file.connect(Path(":memory:"))
    file.make_tables(connection)
    return connection


def lines(first: int, count: int, *, at_ms: int | None = None, text: str = "") -> list[VmLine]:
    return [
        VmLine(
            vm_id=VM,
            seq=seq,
            stream="stdout",
            text=text or f"line {seq}",
            at_ms=seq if at_ms is None else at_ms,
        )
        for seq in range(first, first + count)
    ]


def add(log: sqlite3.Connection, batch: list[VmLine], keep: int = 1000) -> None:
    file.append(log, batch, file.Kept(keep, 1 << 40), {SOURCE: "default"})


def seqs(log: sqlite3.Connection, query: LineQuery) -> list[int]:
    return [line.seq for line in file.page(log, query).lines]


def test_what_is_stored_twice_is_there_once(log: sqlite3.Connection) -> None:
    """Facts that are sent again after they were stored change nothing."""
    add(log, lines(1, 3))
    add(log, lines(2, 4))
    assert seqs(log, LineQuery(SOURCE)) == [1, 2, 3, 4, 5]
    assert file.last_seq(log, SOURCE) == 5


def test_the_newest_lines_are_kept(log: sqlite3.Connection) -> None:
    """A log is trimmed to its bound with every batch."""
    for first in range(1, 100, 7):
        add(log, lines(first, 7), keep=10)
    assert seqs(log, LineQuery(SOURCE, batch=50)) == list(range(96, 106))


def test_times_never_fall(log: sqlite3.Connection) -> None:
    """A line whose clock was set back gets the time of the line before it."""
    add(log, [*lines(1, 1, at_ms=100), *lines(2, 1, at_ms=50), *lines(3, 1, at_ms=200)])
    found = file.page(log, LineQuery(SOURCE)).lines
    assert [line.at_ms for line in found] == [100, 100, 200]
    assert file.span(log, SOURCE) == (100, 200)


def test_both_ends_of_a_range_belong_to_it(log: sqlite3.Connection) -> None:
    """``from`` and ``to`` are inclusive."""
    add(log, lines(1, 9))
    assert seqs(log, LineQuery(SOURCE, from_ms=3, to_ms=5)) == [3, 4, 5]


@pytest.mark.parametrize(
    ("text", "query"),
    [
        *(("HELLO", "hello"), ("Straße", "STRASSE"), ("ÄÖÜ", "äöü"), ("ΣΊΣΥΦΟΣ", "σίσυφος")),
        *(("100%", "%"), ("a_b", "_"), ("İstanbul", "i\u0307stanbul"), ("\0x", "X")),
        *(("İstanbul", "istanbul"), ("istanbul", "İSTANBUL"), ("ISTANBUL", "İs")),
    ],
)
def test_what_is_looked_for_has_no_case(log: sqlite3.Connection, text: str, query: str) -> None:
    """Case folds beyond ASCII, and no character has a meaning of its own."""
    add(log, [*lines(1, 1, text=text), *lines(2, 1, text="other")])
    assert seqs(log, LineQuery(SOURCE, contains=query)) == [1]


@pytest.mark.parametrize("contains", [None, "X"])
@pytest.mark.parametrize("order", Order)
def test_a_page_of_long_lines_has_few(
    log: sqlite3.Connection, order: Order, contains: str | None
) -> None:
    """However many are asked for; and whoever goes on gets all of them."""
    add(log, lines(1, 100, text="x" * 16_000))
    query, found = LineQuery(SOURCE, batch=1000, order=order, contains=contains), [0]
    pages = 0
    more = True
    while more:
        page = file.page(log, query)
        assert sum(len(line.text) for line in page.lines) < 1_600_000
        found += [line.seq for line in page.lines]
        query, more, pages = replace(query, after=page.through), page.more, pages + 1
    assert sorted(found) == list(range(101))
    assert pages >= 2
    followed = file.page(log, replace(query, after=None), Bounds(chars=64 * 1024))
    assert 1 <= len(followed.lines) <= 20 and followed.more


def test_a_log_that_is_not_there_is_empty(log: sqlite3.Connection) -> None:
    """A source without lines gives none, and no span."""
    assert file.page(log, LineQuery(SOURCE)).lines == []
    assert file.span(log, SOURCE) is None


@settings(max_examples=examples(60))
@given(
    order=st.sampled_from(Order),
    growth=st.lists(st.integers(0, 120), min_size=1, max_size=8),
    batch=st.integers(50, 120),
    needle=st.sampled_from([None, "7", "line"]),
    same_ms=st.booleans(),
)
def test_paging_while_a_log_grows_neither_repeats_nor_loses(
    order: Order, growth: list[int], batch: int, needle: str | None, same_ms: bool
) -> None:
    """Read page by page while lines come: from the oldest every line is seen exactly once, in
    order; from the newest every line that was there at the first page is."""
    log = in_memory()
    there = 0
    seen: list[int] = []
    query = LineQuery(SOURCE, contains=needle, order=order, batch=batch)
    token: str | None = None
    there_at_first = 0
    for step in range(10_000):
        grown = growth[step] if step < len(growth) else 0
        add(log, lines(there + 1, grown, at_ms=5 if same_ms else None), keep=100_000)
        there += grown
        there_at_first = there if step == 0 else there_at_first
        asked = resume(query, token, order_given=True) if token else query
        page = file.page(log, asked)
        seen += [line.seq for line in page.lines]
        if page.more:
            token = next_token(asked, page.through)
        elif order is Order.NEWEST_FIRST or step >= len(growth):
            break
        elif page.lines:
            token = next_token(asked, page.lines[-1].seq)
    log.close()
    matching = [seq for seq in range(1, there + 1) if needle is None or needle in f"line {seq}"]
    if order is Order.OLDEST_FIRST:
        assert seen == matching
    else:
        assert seen == [seq for seq in reversed(matching) if seq <= there_at_first]


def test_a_page_says_through_which_line_it_looked(log: sqlite3.Connection) -> None:
    """Who follows a log with a word that it never says looks at no line twice."""
    add(log, lines(1, 30))
    assert file.page(log, LineQuery(SOURCE, contains="nothing")).through == 30
    assert file.page(log, LineQuery(SOURCE, contains="line 2")).through == 30
    cut = file.page(log, LineQuery(SOURCE, contains="line 2", batch=3))
    assert (cut.more, cut.through) == (True, 21)
    rest = LineQuery(SOURCE, contains="line 2", after=cut.through)
    assert seqs(log, rest) == list(range(22, 30))
    add(log, lines(31, 5), keep=3)
    assert file.page(log, LineQuery(SOURCE, contains="nothing", after=30)).through == 35
    assert file.page(log, LineQuery(vm_source("none"))).through == 0


TEXTS = st.lists(
    st.sampled_from(["Needle", "hay", "NEEDLE\u0130", "h\u00e4y", "a\0needle", " "]), max_size=40
)
WORDS = st.sampled_from(["needle", "\u0130", "\u00e4", "a\0n"])


@settings(max_examples=examples(40))
@given(st.sampled_from(Order), TEXTS, WORDS, st.integers(1, 4))
def test_a_search_that_stops_again_and_again_finds_everything(
    order: Order, texts: list[str], word: str, batch: int
) -> None:
    """Whatever bounds a call, whatever is in the lines: each that holds the word is found once."""
    log = in_memory()
    add(log, [lines(n, 1, text=text)[0] for n, text in enumerate(texts * 5, 1)], keep=100_000)
    query, found = LineQuery(SOURCE, contains=word, order=order, batch=batch), list[int]()
    with patch.multiple(search, PIECE_LINES_FIRST=3, PIECE_LINES_MIN=2, PIECE_LINES_MAX=3):
        for _ in range(1000):
            page = file.page(log, query, Bounds(text_bytes=1))
            found += [line.seq for line in page.lines]
            if not page.more:
                break
            assert page.through != query.after
            query = resume(query, next_token(query, page.through), order_given=True)
    log.close()
    holding = [n for n, text in enumerate(texts * 5, 1) if search.fold(word) in search.fold(text)]
    assert found == (holding if order is Order.OLDEST_FIRST else holding[::-1])


def test_a_search_looks_at_so_much_in_one_call(log: sqlite3.Connection) -> None:
    """In bytes and in time; and then says where to go on, though it found nothing."""
    add(log, lines(1, 4000, text="x" * 100), keep=100_000)
    asked = LineQuery(SOURCE, contains="nothing")
    for bounds in (Bounds(text_bytes=10_000), Bounds(seconds=0)):
        page = file.page(log, asked, bounds)
        assert page.lines == []
        assert page.more
        assert 0 < page.through < 2000
    assert not file.page(log, asked).more


@given(
    st.lists(st.integers(0, 6), max_size=30).map(sorted),
    st.integers(0, 8),
    st.integers(0, 8),
    st.sampled_from(Order),
    st.integers(1, 30),
)
def test_a_range_of_time_is_that_of_every_line(
    times: list[int], from_ms: int, to_ms: int, order: Order, keep: int
) -> None:
    """Found without looking at the lines before it: those that it would be found among."""
    log = in_memory()
    add(log, [lines(n, 1, at_ms=at)[0] for n, at in enumerate(times, 1)], keep=keep)
    query = LineQuery(SOURCE, order=order, batch=100, from_ms=from_ms, to_ms=to_ms)
    kept = [n for n, at in enumerate(times, 1) if from_ms <= at <= to_ms and n > len(times) - keep]
    assert seqs(log, query) == (kept if order is Order.OLDEST_FIRST else kept[::-1])
    log.close()
