"""A build's log: numbers, bounds, lines from bytes."""

import asyncio
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.facts import AnyLine, BuildLine
from cakework.node.builds.log import LINE_BYTES_MAX, MORE, BuildLog, LineSplitter


class Facts:
    def __init__(self, last: int = 0) -> None:
        self.lines: list[BuildLine] = []
        self.waits = 0
        self._last = last

    @property
    def last_seq(self) -> int:
        return self._last

    def extend(self, lines: Sequence[AnyLine]) -> int:
        for line in lines:
            assert isinstance(line, BuildLine)
            self.lines.append(line)
        return 0

    async def room(self) -> None:
        """Wait for a moment at which there is room."""
        self.waits += 1


def _everything(_: str) -> bool:
    return True


def test_numbers_go_on_from_the_journal() -> None:
    """A build that is run again repeats no number and leaves none out."""
    facts = Facts(last=41)
    log = BuildLog("b", facts, 10_000)
    log.say("again")
    log.output("more", "stderr")
    assert [(line.seq, line.stream) for line in facts.lines] == [(42, "stdout"), (43, "stderr")]


def test_beyond_the_bound_one_line_says_so() -> None:
    """Output stops there; what the platform itself says does not."""
    facts = Facts()
    log = BuildLog("b", facts, 1000)
    for _ in range(100):
        log.output("x" * 50, "stdout")
    log.say("the end")
    assert [line.text for line in facts.lines[-2:]] == [MORE, "the end"]
    assert len(facts.lines) == 1000 // 150 + 2


@given(st.binary(max_size=300), st.lists(st.integers(1, 40)))
def test_lines_do_not_depend_on_chunks(content: bytes, sizes: list[int]) -> None:
    """However bytes arrive, the same lines come out, and nothing printable is lost."""
    facts = Facts()
    splitter = LineSplitter(BuildLog("b", facts, 10**9), "stdout", _everything)
    rest = content
    for size in sizes:
        asyncio.run(splitter.feed(rest[:size]))
        rest = rest[size:]
    asyncio.run(splitter.feed(rest))
    splitter.finish()
    assert facts.waits == len(sizes) + 1
    *whole, last = content.split(b"\n")
    expected = [*whole, last] if last else whole
    assert [line.text for line in facts.lines] == [
        part.decode(errors="replace").rstrip("\r") for part in expected
    ]


@given(st.integers(0, 4 * LINE_BYTES_MAX))
def test_long_lines_are_cut_not_lost(length: int) -> None:
    """No line is longer than the bound, and together they are what was printed."""
    facts = Facts()
    splitter = LineSplitter(BuildLog("b", facts, 10**9), "stdout", _everything)
    asyncio.run(splitter.feed(b"x" * length))
    asyncio.run(splitter.feed(b"\n"))
    splitter.finish()
    assert all(len(line.text) <= LINE_BYTES_MAX for line in facts.lines)
    assert sum(len(line.text) for line in facts.lines) == length
