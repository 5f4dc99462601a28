"""What an account's lines take: counted as it is in the file, and bounded for each by itself."""

import sqlite3
import subprocess
import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cakework.domain.facts import VmLine
from cakework.server.logs import file, ledger, removal
from cakework.server.logs.ledger import NOTICE
from cakework.server.logs.lines import LineQuery, Source, function_source, vm_source
from tests.properties import examples

from .test_log_file import in_memory

LOUD, QUIET = "loud", "quiet"


@pytest.fixture
def log(tmp_path: Path) -> Generator[sqlite3.Connection]:
    connection = file.connect(tmp_path / "logs.db")
    file.make_tables(connection)
    yield connection
    connection.close()


def print_lines(
    log: sqlite3.Connection,
    account: str,
    vm_id: str,
    texts: Sequence[str],
    *,
    at_ms: int = 0,
    lines: int = 100_000,
    size: int = 1 << 40,
    functions: Mapping[Source, Source] = file.NO_FUNCTIONS,
) -> Source:
    """Store the next lines of a VM of an account, printed from ``at_ms`` on, one a millisecond."""
    source = vm_source(vm_id)
    first = file.last_seq(log, source) + 1
    facts = [
        VmLine(vm_id=vm_id, seq=first + place, stream="stdout", text=text, at_ms=at_ms + place)
        for place, text in enumerate(texts)
    ]
    file.append(log, facts, file.Kept(lines, size), {source: account}, functions)
    return source


def texts(log: sqlite3.Connection, source: Source) -> list[str]:
    return [line.text for line in file.page(log, LineQuery(source, batch=1000)).lines]


def counted(log: sqlite3.Connection) -> dict[str, int]:
    """Count all lines, which the product never does."""
    sql = (
        f"SELECT account, sum({ledger.SIZE}) FROM lines JOIN sources ON id = source"
        " GROUP BY account"
    )
    return dict(log.execute(sql).fetchall())


def noted(log: sqlite3.Connection) -> dict[str, int]:
    return dict(log.execute("SELECT name, bytes FROM accounts WHERE bytes <> 0").fetchall())


def test_who_prints_without_end_keeps_the_newest_and_others_keep_all(
    log: sqlite3.Connection,
) -> None:
    """The bound holds after every batch, also over many logs; the log says where lines are gone."""
    quiet = print_lines(log, QUIET, "quiet", ["oldest of all"], size=20_000)
    loud = list[Source]()
    for batch in range(40):
        loud = [
            print_lines(
                log, LOUD, f"loud{vm}", [f"{batch}-{n}" * 9 for n in range(20)],
                at_ms=100 * batch, size=20_000,
            )
            for vm in range(3)
        ]  # fmt: skip
        assert ledger.taken(log, LOUD) <= 20_000
    assert texts(log, quiet) == ["oldest of all"]
    for source in loud:
        first, *rest = texts(log, source)
        assert first == NOTICE
        assert rest[-20:] == [f"39-{n}" * 9 for n in range(20)]
        assert NOTICE not in rest
        # The numbers of what is left are without gaps, as ever.
        seqs = [line.seq for line in file.page(log, LineQuery(source, batch=1000)).lines]
        assert seqs == list(range(800 - len(rest), 801))
    assert noted(log) == counted(log)


def test_the_oldest_lines_go_first_whichever_log_they_are_in(log: sqlite3.Connection) -> None:
    """So a log of long ago goes before one that is being printed."""
    old = print_lines(log, LOUD, "old", ["x" * 50] * 20, at_ms=1)
    new = print_lines(log, LOUD, "new", ["y" * 50] * 20, at_ms=1000, size=2500)
    assert texts(log, old) == [NOTICE, *["x" * 50] * 6]
    assert texts(log, new) == ["y" * 50] * 20
    print_lines(log, LOUD, "new", ["z" * 50] * 20, at_ms=2000, size=2500)
    assert texts(log, old) == [NOTICE]
    assert texts(log, new)[0] == NOTICE
    assert texts(log, new)[-20:] == ["z" * 50] * 20


def test_one_log_of_which_nothing_fits_ends(log: sqlite3.Connection) -> None:
    """Nothing is dropped for ever: what cannot be dropped stays, and there is an end."""
    source = print_lines(log, LOUD, "vm", ["x"], size=1)
    assert texts(log, source) == [NOTICE]
    print_lines(log, LOUD, "vm", ["x" * 9000], size=1)
    assert texts(log, source) == [NOTICE]
    assert not removal.drop_beyond(log, 1)
    assert noted(log) == counted(log)


def test_a_lowered_bound_is_reached_in_steps(
    log: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without lines that come; of those alone who have more."""
    monkeypatch.setattr(ledger, "LINES_A_STEP", 300)
    loud = print_lines(log, LOUD, "loud", ["x" * 60] * 1000)
    quiet = print_lines(log, QUIET, "quiet", ["x" * 60] * 50)
    steps = 1
    while removal.drop_beyond(log, 5000):
        steps += 1
    assert steps > 2
    assert ledger.taken(log, LOUD) <= 5000 < ledger.taken(log, LOUD) + 200
    assert (texts(log, loud)[0], len(texts(log, quiet))) == (NOTICE, 50)


def test_what_is_counted_is_what_the_file_takes(tmp_path: Path) -> None:
    """Of lines of any length: the bound is one of the disk."""
    for number, length in enumerate((1, 60, 500, 959, 1500, 20_000)):
        path = tmp_path / f"{number}.db"
        log = file.connect(path)
        file.make_tables(log)
        count = 2_000_000 // (length + 200)
        for first in range(0, count, 500):
            print_lines(log, LOUD, "vm", ["x" * length] * min(500, count - first))
        log.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        log.close()
        bytes_counted = count * ledger.size_of("x" * length)
        assert path.stat().st_size < 1.25 * bytes_counted + 40_000, length


def test_a_file_of_before_is_counted_once(tmp_path: Path) -> None:
    """Logs that no account was noted for get theirs; until then they are some account's alone."""
    path = tmp_path / "logs.db"
    before = sqlite3.connect(path, isolation_level=None)
    before.executescript(
        "CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE,"
        " last_seq INTEGER NOT NULL, last_ms INTEGER NOT NULL) STRICT;"
        "CREATE TABLE lines (source INTEGER NOT NULL, seq INTEGER NOT NULL, at_ms INTEGER NOT NULL,"
        " stderr INTEGER NOT NULL, text TEXT NOT NULL, PRIMARY KEY (source, seq))"
        " STRICT, WITHOUT ROWID;"
        "INSERT INTO sources VALUES (1, 'vm:a', 2, 20), (2, 'vm:gone', 1, 5);"
        "INSERT INTO lines VALUES (1, 1, 10, 0, 'one'), (1, 2, 20, 0, 'two'), (2, 1, 5, 0, 'x');"
    )
    before.close()
    for _ in range(2):
        log = file.connect(path)
        file.make_tables(log)
        while unowned := ledger.unowned(log):
            accounts = {vm_source("a"): LOUD}
            file.adopt(log, {source: accounts.get(source, "") for source in unowned})
        assert noted(log) == counted(log) == {LOUD: 86, "": 41}
        log.close()
    log = file.connect(path)
    source = print_lines(log, "ignored", "a", ["three"], at_ms=30, size=120)
    assert texts(log, source) == [NOTICE]
    log.close()


def test_whose_a_new_log_is_has_to_be_said(log: sqlite3.Connection) -> None:
    """Nothing of the batch is stored until it is."""
    known = print_lines(log, QUIET, "known", ["one"])
    batch = [
        VmLine(vm_id=vm_id, seq=seq, stream="stdout", text="x", at_ms=1)
        for vm_id, seq in (("known", 2), ("new", 1))
    ]
    with pytest.raises(file.Unowned) as raised:
        file.append(log, batch, file.Kept(10, 1000), {})
    assert raised.value.sources == [vm_source("new")]
    assert texts(log, known) == ["one"]


def test_a_log_grows_that_loses_as_much(log: sqlite3.Connection) -> None:
    """Whoever follows it is told, also where what comes is as large as what goes for it."""
    line = VmLine(vm_id="vm", seq=1, stream="stdout", text="x", at_ms=1)
    source, kept = vm_source("vm"), file.Kept(1, 1 << 20)
    for seq in (1, 2):
        batch = [line.model_copy(update={"seq": seq})]
        assert file.append(log, batch, kept, {source: LOUD}) == {source}
    assert file.append(log, [line], kept, {}) == set()


@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from("abc"),
            st.lists(st.sampled_from(["", "x", "ä" * 40, "y\0z", "z" * 1500]), max_size=12),
            st.sampled_from(["print", "age", "remove", "lower"]),
        ),
        max_size=12,
    )
)
@settings(max_examples=examples(40))
def test_the_ledger_is_right_whatever_comes_and_goes(
    steps: list[tuple[str, list[str], str]],
) -> None:
    """It says what a count of all lines would say, and no account has more than it may."""
    log = in_memory()
    for at_ms, (vm, printed, what) in enumerate(steps):
        account = LOUD if vm != "c" else QUIET
        if what == "age":
            removal.remove_before(log, at_ms * 10 - 15, 0)
        elif what == "remove":
            removal.remove_log(log, vm_source(vm))
        elif what == "lower":
            removal.drop_beyond(log, 1000)
        else:
            print_lines(
                *(log, account, vm, printed),
                at_ms=at_ms * 10,
                lines=15,
                size=6000,
                functions={vm_source("b"): function_source("f")},
            )
            assert all(size <= 6000 for size in noted(log).values())
        assert noted(log) == counted(log)
    log.close()


ENDLESS = """
import sys
from pathlib import Path
from cakework.domain.facts import VmLine
from cakework.server.logs import file
from cakework.server.logs.lines import vm_source
log = file.connect(Path(sys.argv[1]))
file.make_tables(log)
seq = 0
while True:
    lines = [
        VmLine(vm_id="vm", seq=seq + n, stream="stdout", text="x" * n, at_ms=seq)
        for n in range(1, 40)
    ]
    file.append(log, lines, file.Kept(1000, 9000), {vm_source("vm"): "loud"})
    seq += 39
    print(seq, flush=True)
"""


def test_the_ledger_is_right_when_the_server_is_killed(tmp_path: Path) -> None:
    """At any moment between lines that come and lines that go for them."""
    path = tmp_path / "logs.db"
    command = [sys.executable, "-c", ENDLESS, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for _ in range(20):
            assert process.stdout.readline()
        process.kill()
    log = file.connect(path)
    assert 0 < ledger.taken(log, LOUD) <= 9000
    assert noted(log) == counted(log)
    log.close()
