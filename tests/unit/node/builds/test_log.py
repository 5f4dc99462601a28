"""A build's log: numbers, bounds, lines from bytes."""

from hypothesis import given
from hypothesis import strategies as st

from cakework.domain.facts import AnyFact, BuildLine
from cakework.node.builds.log import LINE_BYTES_MAX, MORE, BuildLog, LineSplitter


class Facts:
    def __init__(self, last: int = 0) -> None:
        self.lines: list[BuildLine] = []
        self._last = last

    def append(self, fact: AnyFact) -> None:
        assert isinstance(fact, BuildLine)
        self.lines.append(fact)

    def last_seq(self, source: str) -> int:
        assert source == "b"
        return self._last


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
        splitter.feed(rest[:size])
        rest = rest[size:]
    splitter.feed(rest)
    splitter.finish()
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
    splitter.feed(b"x" * length)
    splitter.feed(b"\n")
    splitter.finish()
    assert all(len(line.text) <= LINE_BYTES_MAX for line in facts.lines)
    assert sum(len(line.text) for line in facts.lines) == length
