"""What a log is made of: sources, lines, and the question asked of it.

The log of a function has no lines of its own: it is those of its VMs' logs, numbered once more in
the order in which they came.
"""

from dataclasses import dataclass
from enum import StrEnum

from cakework.domain.facts import BuildLine, Stream, VmLine
from cakework.domain.ids import BuildId, FunctionId, VmId

BATCH_MIN, BATCH_MAX, BATCH_DEFAULT = 50, 1000, 100
QUERY_CHARS_MAX = 500


_FUNCTION = "function:"


class Order(StrEnum):
    """Which end of a log comes first."""

    OLDEST_FIRST = "oldest_first"
    NEWEST_FIRST = "newest_first"


@dataclass(frozen=True, slots=True)
class Source:
    """Whose log it is: one VM's, one build's or one function's."""

    name: str

    @property
    def of_function(self) -> bool:
        """Whether its lines are those of other logs."""
        return self.name.startswith(_FUNCTION)

    @property
    def vm_id(self) -> str:
        """The VM whose log it is; empty for another log."""
        kind, _, vm_id = self.name.partition(":")
        return vm_id if kind == "vm" else ""


def vm_source(vm_id: VmId | str) -> Source:
    """Return the log of a VM."""
    return Source(f"vm:{vm_id}")


def build_source(build_id: BuildId | str) -> Source:
    """Return the log of a build."""
    return Source(f"build:{build_id}")


def function_source(function_id: FunctionId | str) -> Source:
    """Return the log of a function."""
    return Source(f"{_FUNCTION}{function_id}")


def source_of(fact: VmLine | BuildLine) -> Source:
    """Return the log that a line belongs to."""
    return vm_source(fact.vm_id) if isinstance(fact, VmLine) else build_source(fact.build_id)


@dataclass(frozen=True, slots=True)
class Line:
    """A stored line. ``seq`` counts the source's lines from 1; ``at_ms`` never falls with it.

    ``number`` counts the lines of the function whose VM printed it, 0 for a VM of none; ``vm_id``
    is that VM, where the log is the function's.
    """

    seq: int
    at_ms: int
    stream: Stream
    text: str
    number: int = 0
    vm_id: str = ""


@dataclass(frozen=True, slots=True)
class LineQuery:
    """A question to one log.

    ``contains`` is looked for without regard to case; ``from_ms`` and ``to_ms`` are both
    inclusive; ``after`` is the last line already had, in the direction of ``order``. Only lines
    from number ``first`` to ``last`` answer it.
    """

    source: Source
    contains: str | None = None
    order: Order = Order.OLDEST_FIRST
    batch: int = BATCH_DEFAULT
    from_ms: int | None = None
    to_ms: int | None = None
    after: int | None = None
    first: int | None = None
    last: int | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Lines that answer a query; ``more`` says that at least one more is there now, or may be: who
    asks for a word gets what was found until as much was looked at as one call may, which can be
    nothing.

    ``through`` is the number of the last line that was looked at: of those up to it, in the order
    of the query, no other answers it.
    """

    lines: list[Line]
    more: bool
    through: int
