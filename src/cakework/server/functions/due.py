"""What is due: of each end user's work for each function the first few.

One query goes from lane to lane (a function and a user) by an index that holds nothing but what
waits, and takes the first of each. So ten thousand of one lane cost no more than ten, and hide
nobody's else. Where there are more lanes than are looked at at once, the next look goes on after
the last.
"""

from dataclasses import dataclass

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from cakework.server.store.function_models import BY_TURN, FunctionRow

LANES_AT_ONCE = 200
OF_EACH_LANE = 16
Lane = tuple[str, str]
"""A function, and whose work for it."""
FIRST: Lane = ("", "")
"""Comes before every lane."""

_WAITS = "FROM invocations AS i {by_turn} WHERE i.state IN ('queued', 'waiting')"
_OTHER_FUNCTION = f"{_WAITS} AND i.function_id > lanes.function_id"
_SAME_FUNCTION = f"{_WAITS} AND i.function_id = lanes.function_id AND i.user_id > lanes.user_id"
_FIRST = "ORDER BY i.function_id, i.user_id LIMIT 1"
_LANES = f"""
WITH RECURSIVE lanes (function_id, user_id, place) AS (
    SELECT * FROM (
        SELECT i.function_id, i.user_id, 1 {_WAITS}
            AND (i.function_id, i.user_id) > (:function_id, :user_id) {_FIRST}
    ) AS first
    UNION ALL
    SELECT
        CASE WHEN EXISTS (SELECT 1 {_SAME_FUNCTION}) THEN lanes.function_id
            ELSE (SELECT i.function_id {_OTHER_FUNCTION} {_FIRST}) END,
        COALESCE(
            (SELECT i.user_id {_SAME_FUNCTION} {_FIRST}),
            (SELECT i.user_id {_OTHER_FUNCTION} {_FIRST})
        ),
        lanes.place + 1
    FROM lanes WHERE lanes.function_id IS NOT NULL AND lanes.place < :lanes
)
SELECT lanes.function_id, lanes.user_id, i.id, i.account_id, i.version, i.pinned, i.attempt,
    i.created_ms, i.ttl_ms
FROM lanes LEFT JOIN
"""  # noqa: S608 - of constants
_ORDER = " WHERE lanes.function_id IS NOT NULL ORDER BY lanes.place, i.next_ms, i.id"
_FIRST_OF_LANE = """
    SELECT w.id FROM invocations AS w {by_turn}
    WHERE w.state IN ('queued', 'waiting') AND w.function_id = lanes.function_id
        AND w.user_id = lanes.user_id AND w.next_ms <= :now AND w."trigger" <> 'test'
    ORDER BY w.next_ms, w.id LIMIT :each
"""
_SQLITE = f"{_LANES} invocations AS i ON i.id IN ({_FIRST_OF_LANE}) {_ORDER}".format(
    by_turn=BY_TURN
)
_POSTGRES = f"""{_LANES} (
    LATERAL ({_FIRST_OF_LANE}) AS firsts JOIN invocations AS i ON i.id = firsts.id
) ON true {_ORDER}""".format(by_turn="")


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

    def version_of(self, function: FunctionRow) -> int | None:
        """Return the version that an attempt which begins now runs on; None: there is none."""
        return self.version if self.pinned else function.live_version


@dataclass(frozen=True, slots=True)
class Found:
    """What is due, with its functions by id, as far as they are there. ``next`` is after which lane
    the next look begins."""

    rows: list[Due]
    functions: dict[str, FunctionRow]
    next: Lane


def due_work(session: Session, now_ms: int, after: Lane) -> Found:
    """Return what is due of the lanes that come after one."""
    sqlite = session.get_bind().dialect.name == "sqlite"
    given = {
        "function_id": after[0],
        "user_id": after[1],
        "lanes": LANES_AT_ONCE,
        "each": OF_EACH_LANE,
        "now": now_ms,
    }
    rows = session.execute(text(_SQLITE if sqlite else _POSTGRES), given).all()
    lanes = dict.fromkeys((row[0], row[1]) for row in rows)
    due = [
        Due(row[0], row[1], row[2], row[3], row[4], bool(row[5]), row[6], row[7], row[8])
        for row in rows
        if row[2] is not None
    ]
    ids = {row.function_id for row in due}
    functions = session.scalars(select(FunctionRow).where(FunctionRow.id.in_(ids))) if ids else ()
    more = len(lanes) == LANES_AT_ONCE
    return Found(due, {row.id: row for row in functions}, list(lanes)[-1] if more else FIRST)
