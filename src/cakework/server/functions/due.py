"""What is due: of each end user's work for each function the first few.

One query goes from function to function, another from lane to lane of these (a function and a
user), by an index that holds nothing but what waits, and takes the first of each. So ten thousand
of one lane cost no more than ten, and hide nobody's else; and ten thousand lanes of one function
hide no other's. Where there are more than are looked at at once, the next look goes on after the
last.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from cakework.server.store.function_models import BY_TURN, FunctionRow

LANES_AT_ONCE = 200
FUNCTIONS_AT_ONCE = 50
OF_EACH_LANE = 16

_WAITS = "FROM invocations AS i {by_turn} WHERE i.state IN ('queued', 'waiting')"
_FIRST = "ORDER BY i.function_id, i.user_id LIMIT 1"
_FUNCTIONS = f"""
WITH RECURSIVE found (function_id, place) AS (
    SELECT * FROM (
        SELECT i.function_id, 1 {_WAITS} AND i.function_id > :after {_FIRST}
    ) AS first
    UNION ALL
    SELECT (SELECT i.function_id {_WAITS} AND i.function_id > found.function_id {_FIRST}), place + 1
    FROM found WHERE found.function_id IS NOT NULL AND found.place < :functions
)
SELECT function_id FROM found WHERE function_id IS NOT NULL ORDER BY place
"""  # noqa: S608 - of constants
_OF_IT = f"{_WAITS} AND i.function_id = {{lane}}.function_id"
_LANES = f"""
WITH RECURSIVE begins (function_id, user_id) AS (VALUES {{begins}}),
lanes (function_id, user_id, place) AS (
    SELECT begins.function_id,
        (SELECT i.user_id {_OF_IT.format(lane="begins", by_turn="{by_turn}")}
            AND i.user_id >= begins.user_id {_FIRST}),
        1
    FROM begins
    UNION ALL
    SELECT lanes.function_id,
        (SELECT i.user_id {_OF_IT.format(lane="lanes", by_turn="{by_turn}")}
            AND i.user_id > lanes.user_id {_FIRST}),
        lanes.place + 1
    FROM lanes WHERE lanes.user_id IS NOT NULL AND lanes.place < :lanes
)
SELECT lanes.function_id, lanes.user_id, i.id, i.account_id, i.version, i.pinned, i.attempt,
    i.created_ms, i.ttl_ms, i.retry, lanes.place
FROM lanes LEFT JOIN
"""  # noqa: S608 - of constants
_ORDER = """
    WHERE lanes.user_id IS NOT NULL ORDER BY lanes.place, lanes.function_id, i.next_ms, i.id
"""
_FIRST_OF_LANE = """
    SELECT w.id FROM invocations AS w {by_turn}
    WHERE w.state IN ('queued', 'waiting') AND w.function_id = lanes.function_id
        AND w.user_id = lanes.user_id AND w.next_ms <= :now AND w."trigger" <> 'test'
    ORDER BY w.next_ms, w.id LIMIT :each
"""
_SQLITE = f"{_LANES} invocations AS i ON i.id IN ({_FIRST_OF_LANE}) {_ORDER}"
_POSTGRES = f"""{_LANES} (
    LATERAL ({_FIRST_OF_LANE}) AS firsts JOIN invocations AS i ON i.id = firsts.id
) ON true {_ORDER}"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a look goes on: after which function, and of some functions with which user.

    ``met``: the functions up to ``after``. ``seen``: of which every user was looked at since a
    round began. ``is_round``: one is over, in which everything was looked at.
    """

    after: str = ""
    users: dict[str, str] = field(default_factory=dict[str, str])
    met: frozenset[str] = frozenset()
    seen: frozenset[str] = frozenset()
    is_round: bool = True


FIRST = Place()


@dataclass(frozen=True, slots=True)
class Due:
    """An invocation of which an attempt may begin: what has to be known to give it an instance."""

    function_id: str
    user_id: str
    id: str
    account_id: str
    version: int | None
    pinned: bool
    attempt: int
    created_ms: int
    ttl_ms: int | None
    retry: str | None

    def version_of(self, function: FunctionRow) -> int | None:
        """Return the version that an attempt which begins now runs on; None: there is none."""
        return self.version if self.pinned else function.live_version


@dataclass(frozen=True, slots=True)
class Found:
    """What is due, with its functions by id, as far as they are there. The next look goes on at
    ``next``."""

    rows: list[Due]
    functions: dict[str, FunctionRow]
    next: Place


def due_work(session: Session, now_ms: int, at: Place) -> Found:
    """Return what is due of the lanes that come next."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    by_turn = BY_TURN if sqlite else ""
    functions = text(_FUNCTIONS.format(by_turn=by_turn))
    asked = {"after": at.after, "functions": FUNCTIONS_AT_ONCE}
    ids = [row[0] for row in session.execute(functions, asked)]
    if not ids:
        return Found([], {}, _next(at, "", at.users, ids))
    lanes = max(1, LANES_AT_ONCE // len(ids))
    given: dict[str, object] = {"lanes": lanes + 1, "each": OF_EACH_LANE, "now": now_ms}
    begins: list[str] = []
    for number, function_id in enumerate(ids):
        begins.append(f"(CAST(:f{number} AS TEXT), CAST(:u{number} AS TEXT))")
        given |= {f"f{number}": function_id, f"u{number}": at.users.get(function_id, "")}
    query = (_SQLITE if sqlite else _POSTGRES).format(begins=", ".join(begins), by_turn=by_turn)
    rows = session.execute(text(query), given).all()
    # Of one lane more it is known that it is there: with that the next look begins.
    users = {each: user for each, user in at.users.items() if each not in ids}
    users |= {row[0]: row[1] for row in rows if row[10] > lanes}
    due = [
        Due(row[0], row[1], row[2], row[3], row[4], bool(row[5]), *row[6:10])
        for row in rows
        if row[2] is not None and row[10] <= lanes
    ]
    wanted = {row.function_id for row in due}
    found = session.scalars(select(FunctionRow).where(FunctionRow.id.in_(wanted))) if wanted else ()
    last = ids[-1] if len(ids) == FUNCTIONS_AT_ONCE else ""
    return Found(due, {row.id: row for row in found}, _next(at, last, users, ids))


def _next(at: Place, after: str, users: dict[str, str], ids: Sequence[str]) -> Place:
    """Return where the look after one at ``at`` goes on, which has looked at functions ``ids``."""
    met = at.met.union(ids)
    seen = at.seen | {each for each in ids if each not in users}
    if after:
        return Place(after, users, met, seen, is_round=False)
    # Of those that are gone nothing waits any more.
    users = {each: user for each, user in users.items() if each in met}
    if users.keys() <= seen:
        return Place("", users)
    return Place("", users, seen=seen, is_round=False)
