"""The journal keeps every fact, in order, through anything short of a broken disk."""

import asyncio
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from cakework.domain.facts import BuildFailed, VmLine, VmStarted, VmStopped
from cakework.node import journal as module
from cakework.node.journal import HOST_RESTART_GAP, Journal
from tests.properties import examples


def line(vm_id: str, seq: int, text: str = "x") -> VmLine:
    return VmLine(at_ms=1, vm_id=vm_id, seq=seq, stream="stdout", text=text)


def read(journal: Journal, after: int) -> list[dict[str, object]]:
    """Return the facts above ``after`` that are there now."""

    async def collect() -> list[dict[str, object]]:
        found: list[dict[str, object]] = []
        async for chunk in journal.stream(after, heartbeat_s=0):
            if chunk == b"\n":
                break
            assert chunk.endswith(b"\n")
            found += [json.loads(text) for text in chunk.splitlines()]
        return found

    return asyncio.run(collect())


def cursors(facts: list[dict[str, object]]) -> list[object]:
    return [fact["cursor"] for fact in facts]


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEGMENT_BYTES", 400)


class Interleaving(RuleBasedStateMachine):
    """Appends, confirmations, crashes and readers in any order, on small segments."""

    def __init__(self) -> None:
        super().__init__()
        self.segment_bytes, module.SEGMENT_BYTES = module.SEGMENT_BYTES, 300
        self.folder = Path(tempfile.mkdtemp())
        self.journal = Journal.open(self.folder)
        self.written: list[tuple[int, str]] = []
        self.confirmed = 0
        self.seqs: dict[str, int] = {}

    def teardown(self) -> None:
        self.journal.close()
        module.SEGMENT_BYTES = self.segment_bytes
        shutil.rmtree(self.folder)

    @rule(vm_id=st.sampled_from("abc"), texts=st.lists(st.text(max_size=90), max_size=5))
    def extend(self, vm_id: str, texts: list[str]) -> None:
        facts: list[VmLine] = []
        for text in texts:
            self.seqs[vm_id] = self.seqs.get(vm_id, 0) + 1
            facts.append(line(vm_id, self.seqs[vm_id], text))
            self.written.append((self.journal.cursor + len(facts), text))
        self.journal.extend(facts)

    @rule(vm_id=st.sampled_from("abc"))
    def stop(self, vm_id: str) -> None:
        self.journal.append(VmStopped(at_ms=1, vm_id=vm_id, reason="stopped"))
        self.written.append((self.journal.cursor, "stopped"))

    @rule(share=st.floats(0, 1))
    def confirm(self, share: float) -> None:
        self.confirmed = max(self.confirmed, int(self.journal.cursor * share))
        self.journal.confirm(self.confirmed)

    @rule(torn=st.sampled_from([b"", b'{"cursor":', b'{"cursor":99999,"at_ms":1', b"\0\0\0"]))
    def crash(self, torn: bytes) -> None:
        """The node is killed in the middle of writing a line."""
        self.journal.close()
        newest = max(self.folder.glob("*.ndjson"))
        with newest.open("ab") as file:
            file.write(torn)
        self.journal = Journal.open(self.folder)

    @rule(share=st.floats(0, 1))
    def a_reader_sees_each_fact_once_in_order(self, share: float) -> None:
        after = max(self.confirmed, int(self.journal.cursor * share))
        seen = read(self.journal, after)
        expected = [(cursor, text) for cursor, text in self.written if cursor > after]
        assert [(f["cursor"], f.get("text") or f.get("reason") or "") for f in seen] == expected

    @invariant()
    def line_numbers_are_remembered(self) -> None:
        for vm_id, seq in self.seqs.items():
            assert self.journal.last_seq(vm_id) == seq

    @invariant()
    def the_backlog_is_what_lies_there(self) -> None:
        lies_there = sum(path.stat().st_size for path in self.folder.glob("*.ndjson"))
        assert self.journal._bytes == lies_there  # pyright: ignore[reportPrivateUsage]


Interleaving.TestCase.settings = settings(max_examples=examples(60), stateful_step_count=25)
TestInterleaving = Interleaving.TestCase


@pytest.mark.usefixtures("small_segments")
def test_confirmed_segments_go_and_line_numbers_stay(tmp_path: Path) -> None:
    """What is confirmed is trimmed from the disk; a source's last number outlives that."""
    journal = Journal.open(tmp_path)
    journal.append(line("early", 7))
    for seq in range(1, 50):
        journal.append(line("late", seq))
    before = len(list(tmp_path.glob("*.ndjson")))
    journal.confirm(journal.cursor)
    assert len(list(tmp_path.glob("*.ndjson"))) == 1 < before
    journal.close()
    again = Journal.open(tmp_path)
    assert (again.last_seq("early"), again.last_seq("late")) == (7, 49)
    assert again.cursor == 50
    again.close()


def test_a_source_that_has_not_ended_is_never_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many others come and go, the number of a VM that runs is kept."""
    monkeypatch.setattr(module, "MOST_ENDED", 3)
    journal = Journal.open(tmp_path)
    journal.append(line("quiet", 4))
    for number in range(10):
        journal.append(line(f"vm{number}", 1))
        journal.append(VmStopped(at_ms=1, vm_id=f"vm{number}", reason="over"))
    journal.append(BuildFailed(at_ms=1, build_id="unheard", error="of"))
    journal.append(VmStarted(at_ms=1, vm_id="quiet"))
    journal.close()
    again = Journal.open(tmp_path)
    assert [again.last_seq(f"vm{n}") for n in (6, 7, 8, 9)] == [0, 1, 1, 1]
    assert again.last_seq("quiet") == 4
    again.close()


def test_after_a_restart_of_the_host_cursors_leave_a_gap(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Facts that the host lost can have had cursors; no later fact gets one of those."""
    journal = Journal.open(tmp_path / "journal")
    journal.append(line("a", 1))
    journal.close()
    boot_id = tmp_path / "boot_id"
    boot_id.write_text("another boot")
    monkeypatch.setattr(module, "BOOT_ID", boot_id)
    for _ in range(2):
        journal = Journal.open(tmp_path / "journal")
        assert journal.cursor == 1 + HOST_RESTART_GAP
        journal.close()
    journal = Journal.open(tmp_path / "journal")
    journal.append(line("a", 2))
    assert cursors(read(journal, 0)) == [1, 2 + HOST_RESTART_GAP]
    journal.close()


def test_a_write_that_fails_in_the_middle_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk facts are refused whole; what is written later follows without a break."""
    journal = Journal.open(tmp_path)
    journal.append(line("a", 1))
    with monkeypatch.context() as full:
        full.setattr(os, "pwrite", _fills_up(os.pwrite))
        with pytest.raises(OSError, match="No space"):
            journal.extend([line("a", 2), line("a", 3)])
    assert (journal.cursor, journal.last_seq("a")) == (1, 1)
    journal.append(line("a", 2))
    assert cursors(read(journal, 0)) == [1, 2]
    journal.close()
    again = Journal.open(tmp_path)
    assert cursors(read(again, 0)) == [1, 2]
    again.close()


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
        for seq in range(1, 10):
            journal.append(line("a", seq))
    journal.append(line("a", 10))
    assert len(list(tmp_path.glob("*.ndjson"))) == 2
    assert cursors(read(journal, 0)) == list(range(1, 11))
    journal.close()


@pytest.mark.usefixtures("small_segments")
def test_readers_follow_what_is_written_while_they_read(tmp_path: Path) -> None:
    """Readers that start anywhere get all that comes, across segments and trimming."""

    async def scene() -> None:
        journal = Journal.open(tmp_path)
        for seq in range(1, 6):
            journal.append(line("a", seq))
        readers = [asyncio.create_task(_take(journal, after, 40 - after)) for after in (0, 3, 5)]
        for seq in range(6, 41):
            journal.append(line("a", seq))
            await asyncio.sleep(0)
            if seq == 20:
                journal.confirm(5)
        for after, reader in zip((0, 3, 5), readers, strict=True):
            assert await asyncio.wait_for(reader, 60) == list(range(after + 1, 41))
        journal.close()

    asyncio.run(scene())


def test_sources_wait_until_the_backlog_is_confirmed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """room() returns once enough was confirmed, and not before."""
    monkeypatch.setattr(module, "SEGMENT_BYTES", 200)
    monkeypatch.setattr(module, "BACKLOG_BYTES", 1000)

    async def scene() -> None:
        journal = Journal.open(tmp_path)
        await asyncio.wait_for(journal.room(), 60)
        for seq in range(1, 30):
            journal.append(line("a", seq))
        waiting = asyncio.create_task(journal.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        journal.confirm(journal.cursor)
        await asyncio.wait_for(waiting, 60)
        journal.close()

    asyncio.run(scene())


async def _take(journal: Journal, after: int, count: int) -> list[object]:
    seen: list[object] = []
    async for chunk in journal.stream(after):
        seen += [json.loads(text)["cursor"] for text in chunk.splitlines() if text]
        if len(seen) >= count:
            return seen
    return seen


def _fills_up(pwrite: Callable[[int, memoryview, int], int]) -> Callable[..., int]:
    calls = iter([True])

    def write_part(fd: int, data: memoryview, at: int) -> int:
        if next(calls, False):
            return pwrite(fd, data[:10], at)
        raise OSError(errno.ENOSPC, "No space left on device")

    return write_part
