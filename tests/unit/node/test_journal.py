"""The journal keeps every fact, in order, through anything short of a broken disk."""

import asyncio
import errno
import json
import os
import shutil
import tempfile
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cakework.domain.facts import (
    BuildFailed,
    ImportFailed,
    SnapshotMade,
    VmLine,
    VmStarted,
    VmStopped,
)
from cakework.node import journal as module
from cakework.node import spool
from cakework.node.journal import HOST_RESTART_GAP, Journal
from tests.properties import examples

TORN = [b"", b'{"cursor":', b'{"cursor":99999,"at_ms":1', b'{"held": 7, "aft', b"\0\0\0"]


def line(vm_id: str, seq: int, text: str = "x") -> VmLine:
    return VmLine(at_ms=1, vm_id=vm_id, seq=seq, stream="stdout", text=text)


def started(number: int = 1) -> VmStarted:
    """Return a change that nothing delays."""
    return VmStarted(at_ms=1, vm_id="a", run=number)


def stopped(vm_id: str, reason: str = "over") -> VmStopped:
    return VmStopped(at_ms=1, vm_id=vm_id, reason=reason)


def put(journal: Journal, *lines: VmLine) -> None:
    for each in lines:
        journal.source(each.vm_id, "account").extend([each])


def read(journal: Journal, after: int) -> list[dict[str, object]]:
    """Return the changes above ``after`` that are told by now."""
    return _there(journal.stream(after, heartbeat_s=0))


def read_lines(journal: Journal) -> list[tuple[str, int, str]]:
    """Return the lines that are there now: vm, number and text. All of them are sent at once."""
    found = _there(journal.lines.stream(heartbeat_s=0))
    return [(str(fact["vm_id"]), int(str(fact["seq"])), str(fact["text"])) for fact in found]


def _there(stream: AsyncGenerator[bytes]) -> list[dict[str, object]]:
    async def collect() -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        async for chunk in stream:
            if chunk == b"\n":
                break
            assert chunk.endswith(b"\n")
            found += [json.loads(text) for text in chunk.splitlines()]
        await stream.aclose()
        return found

    return asyncio.run(collect())


def cursors(facts: list[dict[str, object]]) -> list[object]:
    return [fact["cursor"] for fact in facts]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 400)
    monkeypatch.setattr(spool, "SEGMENT_BYTES", 400)
    monkeypatch.setattr(spool, "SETTLED_BYTES", 100)


class Interleaving(RuleBasedStateMachine):
    """Lines, changes, confirmations, crashes and readers in any order, on small segments."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(module, "SEGMENT_BYTES", 300)
        self.patch.setattr(spool, "SEGMENT_BYTES", 300)
        self.patch.setattr(spool, "SETTLED_BYTES", 100)
        self.patch.setattr(spool, "BLOCK_BYTES", 200)
        self.folder = Path(tempfile.mkdtemp())
        self.journal = Journal.open(self.folder)
        self.printed: dict[str, list[str]] = {vm_id: [] for vm_id in "abc"}
        self.known: dict[str, int] = dict.fromkeys("abc", 0)
        self.waiting: dict[str, list[tuple[int, str]]] = {vm_id: [] for vm_id in "abc"}
        self.due: list[str] = []
        self.told: list[str] = []
        self.after = 0
        self.count = 0

    def teardown(self) -> None:
        self.journal.close()
        self.patch.undo()
        shutil.rmtree(self.folder)

    @rule(vm_id=st.sampled_from("abc"), texts=st.lists(st.text(max_size=90), max_size=5))
    def prints(self, vm_id: str, texts: list[str]) -> None:
        before = self.printed[vm_id]
        lines = [line(vm_id, len(before) + n, text) for n, text in enumerate(texts, 1)]
        self.journal.source(vm_id, f"account of {vm_id}").extend(lines)
        before += texts

    @rule(vm_id=st.sampled_from("abc"), ends=st.booleans())
    def changes(self, vm_id: str, ends: bool) -> None:
        self.count += 1
        name, last = str(self.count), len(self.printed[vm_id])
        if ends:
            self.journal.append(stopped(vm_id, name))
        else:
            self.journal.append(VmStarted(at_ms=1, vm_id=vm_id, run=self.count))
        if self.waiting[vm_id] or (ends and self.known[vm_id] < last):
            self.waiting[vm_id].append((last, name))
        else:
            self.due.append(name)

    @rule(share=st.floats(0, 1))
    def changes_are_confirmed(self, share: float) -> None:
        self.told_now()
        self.journal.confirm(int(self.after * share))

    @rule(vm_id=st.sampled_from("abc"), share=st.floats(0, 1))
    def lines_are_confirmed(self, vm_id: str, share: float) -> None:
        known = int(len(self.printed[vm_id]) * share)
        self.known[vm_id] = max(self.known[vm_id], known)
        self.journal.confirm_lines({vm_id: known})
        waiting = self.waiting[vm_id]
        while waiting and waiting[0][0] <= self.known[vm_id]:
            self.due.append(waiting.pop(0)[1])

    @rule(torn=st.sampled_from(TORN), torn_line=st.sampled_from(TORN), ends=st.booleans())
    def crash(self, torn: bytes, torn_line: bytes, ends: bool) -> None:
        """The node is killed in the middle of writing; the server says again what it has."""
        self.journal.close()
        with max(self.folder.glob("*.ndjson")).open("ab") as file:
            file.write(torn)
        for source in self.folder.glob("lines/*"):
            newest = max(source.glob("*.ndjson"))
            with newest.open("ab") as file:
                file.write(torn_line)
            if ends:
                (source / f"{10**9:020d}.ndjson").write_bytes(torn_line)
        self.journal = Journal.open(self.folder)
        self.journal.confirm_lines(self.known)

    @rule()
    def told_now(self) -> None:
        """Each change is told once, and that a log ended, when all of it is confirmed."""
        for fact in read(self.journal, self.after):
            self.told.append(str(fact.get("reason") or fact["run"]))
            cursor = int(str(fact["cursor"]))
            assert cursor > self.after
            self.after = cursor
        assert self.told == self.due

    @rule()
    def lines_there_now(self) -> None:
        """No line is missing or out of order, and what is confirmed need not be there."""
        found = read_lines(self.journal)
        for vm_id, texts in self.printed.items():
            of = [(seq, text) for each, seq, text in found if each == vm_id]
            assert of == list(enumerate(texts, 1))[self.known[vm_id] :]

    @invariant()
    def line_numbers_are_remembered(self) -> None:
        for vm_id, texts in self.printed.items():
            assert self.journal.last_seq(vm_id) == len(texts)

    @invariant()
    def what_is_unconfirmed_is_counted(self) -> None:
        wanted = [
            line(vm_id, seq, text)
            for vm_id, texts in self.printed.items()
            for seq, text in enumerate(texts, 1)
            if seq > self.known[vm_id]
        ]
        size = sum(len(each.model_dump_json(exclude={"cursor"}).encode()) + 1 for each in wanted)
        segments = len(list(self.folder.glob("lines/*/*.ndjson")))
        slack = 3 * (spool.BLOCK_BYTES + 700) + 100 * segments
        assert size <= self.journal.lines.unconfirmed <= size + slack


Interleaving.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=25)
TestInterleaving = Interleaving.TestCase


@pytest.mark.usefixtures("small_segments")
def test_confirmed_segments_go_and_line_numbers_stay(tmp_path: Path) -> None:
    """What is confirmed is trimmed from the disk; a source's last number outlives that."""
    journal = Journal.open(tmp_path)
    put(journal, line("early", 7), *(line("late", seq) for seq in range(1, 50)))
    for number in range(1, 50):
        journal.append(started(number))
    before = len(list(tmp_path.rglob("*.ndjson")))
    journal.confirm(journal.cursor)
    journal.confirm_lines({"early": 7, "late": 49, "unheard of": 3})
    assert len(list(tmp_path.rglob("*.ndjson"))) == 3 < before
    journal.close()
    again = Journal.open(tmp_path)
    assert (again.last_seq("early"), again.last_seq("late")) == (7, 49)
    assert again.cursor == 49
    again.close()


@pytest.mark.usefixtures("small_segments")
def test_of_a_source_that_ended_a_number_is_left(tmp_path: Path) -> None:
    """Its lines go when the last of them is confirmed, and how it ended is told then."""
    journal = Journal.open(tmp_path)
    put(journal, *(line("vm/../1", seq) for seq in range(1, 50)))
    journal.append(stopped("vm/../1", "held"))
    journal.confirm_lines({"vm/../1": 48})
    assert read(journal, 0) == []
    journal.confirm_lines({"vm/../1": 49})
    assert [fact["reason"] for fact in read(journal, 0)] == ["held"]
    assert list((tmp_path / "lines").iterdir()) == []
    journal.close()
    again = Journal.open(tmp_path)
    assert again.last_seq("vm/../1") == 49
    put(again, line("vm/../1", 50))
    assert [seq for _, seq, _ in read_lines(again)] == [50]
    again.close()


def test_a_source_that_has_not_ended_is_never_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many others come and go, the number of a VM that runs is kept; that its snapshot was
    taken is told at once, and ends nothing."""
    monkeypatch.setattr(module, "MOST_ENDED", 3)
    journal = Journal.open(tmp_path)
    put(journal, line("quiet", 4))
    journal.append(SnapshotMade(at_ms=1, vm_id="quiet", size_bytes=1, vm_runs=True))
    assert [fact["kind"] for fact in read(journal, 0)] == ["snapshot.made"]
    for number in range(10):
        put(journal, line(f"vm{number}", 1))
        journal.confirm_lines({f"vm{number}": 1, "quiet": 4})
        journal.append(stopped(f"vm{number}"))
    journal.append(BuildFailed(at_ms=1, build_id="unheard", error="of"))
    journal.append(VmStarted(at_ms=1, vm_id="quiet"))
    journal.close()
    again = Journal.open(tmp_path)
    assert [again.last_seq(f"vm{n}") for n in (6, 7, 8, 9)] == [0, 1, 1, 1]
    assert again.last_seq("quiet") == 4
    again.close()


def test_nothing_of_others_waits_for_lines(tmp_path: Path) -> None:
    """Unconfirmed lines hold up the end of their own log, and no other change."""
    journal = Journal.open(tmp_path)
    put(journal, line("prints", 1), line("quiet", 1))
    journal.confirm_lines({"quiet": 1})
    journal.append(stopped("prints", "held"))
    journal.append(VmStarted(at_ms=1, vm_id="prints", run=2))
    journal.append(VmStarted(at_ms=1, vm_id="other"))
    journal.append(stopped("quiet", "told"))
    journal.append(ImportFailed(at_ms=1, image_id="image", error="told"))
    kinds = [(fact["kind"], fact.get("vm_id")) for fact in read(journal, 0)]
    assert kinds == [("vm.started", "other"), ("vm.stopped", "quiet"), ("import.failed", None)]
    after = journal.cursor
    journal.confirm_lines({"prints": 1})
    assert [fact["run"] for fact in read(journal, after)] == [1, 2]
    journal.close()


def test_what_is_held_outlives_the_node_and_is_told_once(tmp_path: Path) -> None:
    """However often the node is killed before, and after, and whatever segments are gone."""
    journal = Journal.open(tmp_path)
    put(journal, line("vm", 1), line("vm", 2))
    journal.append(stopped("vm"))
    for run in (1, 2):
        journal.append(VmStarted(at_ms=1, vm_id="other", run=run))
        journal.confirm(journal.cursor)
        journal.close()
        journal = Journal.open(tmp_path)
        journal.confirm_lines({"vm": 1})
        assert "vm.stopped" not in [fact["kind"] for fact in read(journal, 0)]
    after = journal.cursor
    for _ in range(3):
        journal.confirm_lines({"vm": 2})
        assert [fact["kind"] for fact in read(journal, after)] == ["vm.stopped"]
        journal.close()
        journal = Journal.open(tmp_path)
    journal.close()


def test_a_journal_of_before_is_taken_over(tmp_path: Path) -> None:
    """Lines that an earlier version wrote among the changes come first, and count on."""
    old = [
        {"header": {"sources": {"long": 9}, "ended": {}}},
        {"cursor": 1, **line("vm", 1).model_dump(exclude={"cursor"})},
        {"cursor": 2, **line("gone", 1).model_dump(exclude={"cursor"})},
        {"cursor": 3, **stopped("gone").model_dump(exclude={"cursor"})},
    ]
    first = tmp_path / f"{1:020d}.ndjson"
    first.write_text("".join(json.dumps(record) + "\n" for record in old))
    (tmp_path / "boot_id").write_text(module.BOOT_ID.read_text())
    for _ in range(2):
        journal = Journal.open(tmp_path)
        assert [journal.last_seq(source) for source in ("vm", "gone", "long")] == [1, 1, 9]
        assert cursors(read(journal, 0)) == [1, 2, 3]
        journal.close()
    journal = Journal.open(tmp_path)
    put(journal, line("vm", 2))
    journal.append(stopped("long"))
    assert cursors(read(journal, 1)) == [2, 3, 4]
    assert read_lines(journal) == [], "it would be taken for one behind the first"
    assert cursors(read(journal, 2)) == [3, 4]
    assert read_lines(journal) == [("vm", 2, "x")]
    journal.close()
    again = Journal.open(tmp_path)
    again.confirm(1)
    assert read_lines(again) == []
    again.confirm(2)
    assert read_lines(again) == [("vm", 2, "x")]
    again.close()


def test_after_a_restart_of_the_host_cursors_leave_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts that the host lost can have had cursors; no later fact gets one of those."""
    journal = Journal.open(tmp_path / "journal")
    journal.append(started())
    journal.close()
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another boot")
    monkeypatch.setattr(module, "BOOT_ID", boot_id)
    for _ in range(2):
        journal = Journal.open(tmp_path / "journal")
        assert journal.cursor == 1 + HOST_RESTART_GAP
        journal.close()
    journal = Journal.open(tmp_path / "journal")
    journal.append(started(2))
    assert cursors(read(journal, 0)) == [1, 2 + HOST_RESTART_GAP]
    journal.close()


@pytest.mark.usefixtures("small_segments")
def test_lines_that_the_host_lost_leave_a_hole_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash of the host may take writes from any segment; what is whole is still sent."""
    journal = Journal.open(tmp_path / "journal")
    put(journal, *(line("vm", seq) for seq in range(1, 16)))
    journal.close()
    first, second, *_ = sorted((tmp_path / "journal").glob("lines/*/*.ndjson"))
    first.write_bytes(first.read_bytes()[:-150] + bytes(150))
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another boot")
    monkeypatch.setattr(module, "BOOT_ID", boot_id)
    journal = Journal.open(tmp_path / "journal")
    seqs = [seq for _, seq, _ in read_lines(journal)]
    lost = [seq for seq in range(1, 16) if seq not in seqs]
    assert seqs == sorted(set(seqs))
    assert lost
    assert max(lost) < int(second.stem)
    journal.close()


def test_a_write_that_fails_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk facts are refused whole; what is written later follows without a break."""
    journal = Journal.open(tmp_path)
    journal.append(started())
    put(journal, line("a", 1))
    for attempt in (
        lambda: journal.append(started(2)),
        lambda: journal.source("a", "account").extend([line("a", 2), line("a", 3)]),
        lambda: journal.source("b", "account").extend([line("b", 1)]),
    ):
        with monkeypatch.context() as full:
            full.setattr(os, "pwrite", _fills_up(os.pwrite))
            with pytest.raises(OSError, match="No space"):
                attempt()
    assert (journal.cursor, journal.last_seq("a"), journal.last_seq("b")) == (1, 1, 0)
    journal.append(started(2))
    put(journal, line("a", 2), line("b", 1))
    for _ in range(2):
        assert cursors(read(journal, 0)) == [1, 2]
        assert sorted(read_lines(journal)) == [("a", 1, "x"), ("a", 2, "x"), ("b", 1, "x")]
        journal.close()
        journal = Journal.open(tmp_path)
    journal.close()


@pytest.mark.usefixtures("small_segments")
def test_a_segment_that_cannot_be_begun_is_begun_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts go on in the old segment when the folder takes no new file for a while."""
    journal = Journal.open(tmp_path)

    def no_open(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as full:
        full.setattr(os, "open", no_open)
        for number in range(1, 10):
            journal.append(started(number))
    journal.append(started(10))
    assert len(list(tmp_path.glob("*.ndjson"))) == 2
    assert cursors(read(journal, 0)) == list(range(1, 11))
    journal.close()


@pytest.mark.usefixtures("small_segments")
def test_readers_follow_what_is_written_while_they_read(tmp_path: Path) -> None:
    """Readers that start anywhere get all that comes, across segments and trimming."""

    async def scene() -> None:
        journal = Journal.open(tmp_path)
        for number in range(1, 6):
            journal.append(started(number))
            put(journal, line("a", number))
        readers = [
            *(_take(journal.stream(after), "cursor", 40 - after) for after in (0, 3, 5)),
            _take(journal.lines.stream(), "seq", 40),
        ]
        tasks = [asyncio.create_task(reader) for reader in readers]
        for number in range(6, 41):
            journal.append(started(number))
            put(journal, line("a", number))
            await asyncio.sleep(0)
            if number == 20:
                journal.confirm(5)
                journal.confirm_lines({"a": 5})
        for after, task in zip((0, 3, 5, 0), tasks, strict=True):
            assert await asyncio.wait_for(task, 60) == list(range(after + 1, 41))
        journal.close()

    asyncio.run(scene())


async def _take(stream: AsyncGenerator[bytes], field: str, count: int) -> list[object]:
    seen: list[object] = []
    async for chunk in stream:
        seen += [json.loads(text)[field] for text in chunk.splitlines() if text]
        if len(seen) >= count:
            break
    await stream.aclose()
    return seen


def _fills_up(pwrite: Callable[[int, memoryview, int], int]) -> Callable[..., int]:
    calls = iter([True])

    def write_part(fd: int, data: memoryview, at: int) -> int:
        if next(calls, False):
            return pwrite(fd, data[:10], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    return write_part
