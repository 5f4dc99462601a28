"""Transactions of many that are committed at once; what waits, found and bounded."""

import asyncio
import time
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, event, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from cakework.domain.errors import Conflict, QuotaExceeded
from cakework.domain.ids import new_function_id, new_invocation_id
from cakework.server.functions.due import (
    FIRST,
    FUNCTIONS_AT_ONCE,
    LANES_AT_ONCE,
    OF_EACH_LANE,
    Place,
    due_work,
)
from cakework.server.functions.waiting import WaitingLimits
from cakework.server.services.rooms import COUNTED_MS, FULL_MS
from cakework.server.store.database import Database
from cakework.server.store.database import database_url as url_of
from cakework.server.store.function_models import InvocationRow
from cakework.server.store.models import AccountRow
from cakework.server.store.together import after_commit

from .rig import settings_for

pytestmark = pytest.mark.anyio
NOW = 1_000_000
ACCOUNT = "default"


@pytest.fixture
async def store(folder: Path, database_url: str | None) -> AsyncGenerator[Database]:
    """A store with an account, of either kind."""
    settings = settings_for(folder, database_url)
    settings.server_dir.mkdir(exist_ok=True)
    made = Database(url_of(settings))
    await made.open()
    async with made.writing() as session:
        session.add(AccountRow(id=ACCOUNT, created_ms=1))
    yield made
    await made.close()


def waiting(function_id: str, user_id: str = "", **more: Any) -> dict[str, Any]:
    """Return the row of an invocation that waits."""
    return {
        "id": new_invocation_id(),
        "account_id": ACCOUNT,
        "function_id": function_id,
        "user_id": user_id,
        "trigger": "api",
        "kind": "queued",
        "state": "queued",
        "pinned": False,
        "attempt": 0,
        "unreached": 0,
        "event_sealed": b"",
        "event_bytes": 0,
        "cancel": False,
        "next_ms": NOW,
        "depth": 0,
        "created_ms": NOW,
        "updated_ms": NOW,
        **more,
    }


async def fill(store: Database, rows: list[dict[str, Any]]) -> None:
    await store.together(lambda session: session.execute(insert(InvocationRow), rows) and None)


def add(session: Session, row: dict[str, Any]) -> str:
    session.add(InvocationRow(**row))
    return row["id"]


async def count(store: Database) -> int:
    query = select(func.count()).select_from(InvocationRow)
    return await store.look(lambda session: session.scalar(query)) or 0


async def test_what_comes_meanwhile_is_committed_together(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cakework.server.store.together.LONG_S", 60.0)
    commits: list[object] = []
    for engine in store.engines:
        event.listen(engine, "commit", commits.append)
    rows = [waiting(new_function_id()) for _ in range(40)]
    done = await asyncio.gather(
        *(store.together(lambda session, row=row: add(session, row)) for row in rows)
    )
    assert done == [row["id"] for row in rows]
    assert 1 <= len(commits) <= 2
    assert await count(store) == 40


async def test_of_many_each_has_its_own_end(store: Database) -> None:
    """What is refused, and what goes wrong half done, takes nothing of others' with it."""
    first, second, third, double = (waiting(new_function_id()) for _ in range(4))
    double["id"] = first["id"]

    def refused(_: Session) -> None:
        raise Conflict("It is so.")

    def broken(session: Session) -> None:
        add(session, third)
        session.flush()
        raise ZeroDivisionError

    ends = await asyncio.gather(
        store.together(lambda session: add(session, first)),
        store.together(refused),
        store.together(broken),
        store.together(lambda session: add(session, double)),
        store.together(lambda session: add(session, second)),
        return_exceptions=True,
    )
    assert [type(end).__name__ for end in ends] == [
        *("str", "Conflict", "ZeroDivisionError", "IntegrityError", "str")
    ]
    assert await count(store) == 2


async def test_what_fails_holds_up_nothing_though_its_error_is_kept(store: Database) -> None:
    """A result that was not read to its end goes, of work that is refused, breaks or only reads."""

    def half(session: Session, error: type[Exception]) -> None:
        result = session.connection().execute(select(InvocationRow.id))
        assert result.fetchone()
        raise error("It is so.")

    for _ in range(100):
        await store.together(lambda session: add(session, waiting(new_function_id())))
    kept: list[BaseException] = []
    for do, error in (
        (store.together, ZeroDivisionError),
        (store.together, Conflict),
        (store.look, ZeroDivisionError),
    ):
        with pytest.raises(error) as raised:
            await do(lambda session, error=error: half(session, error))
        kept.append(raised.value)
        async with store.writing() as session:
            session.add(InvocationRow(**waiting(new_function_id())))
        for _ in range(3):
            await store.together(lambda session: add(session, waiting(new_function_id())))
        assert await count(store) == 100 + 4 * len(kept)


async def test_what_is_to_be_called_after_is_called_once_it_is_committed(store: Database) -> None:
    """Once for all that is committed together; not for what is taken back."""
    called: list[str] = []
    seen: list[int] = []
    commits: list[object] = []
    for engine in store.engines:
        event.listen(engine, "commit", commits.append)

    def hint() -> None:
        called.append("after")

    def told(session: Session, row: dict[str, Any]) -> str:
        after_commit(session, hint)
        seen.append(len(called))
        return add(session, row)

    def broken(session: Session) -> None:
        after_commit(session, lambda: called.append("broken"))
        raise ZeroDivisionError

    rows = [waiting(new_function_id()) for _ in range(20)]
    works = (store.together(lambda session, row=row: told(session, row)) for row in rows)
    await asyncio.gather(*works)
    assert len(called) == len(commits)
    assert seen[0] == 0
    with pytest.raises(ZeroDivisionError):
        await store.together(broken)
    called.clear()
    async with store.writing() as session:
        after_commit(session.sync_session, hint)
        await session.execute(select(AccountRow.id))
        assert called == []
    assert called == ["after"]
    assert await count(store) == 20


async def test_what_was_begun_is_done_when_nobody_waits_for_it(store: Database) -> None:
    row = waiting(new_function_id())
    doing = asyncio.create_task(store.together(lambda session: add(session, row)))
    await asyncio.sleep(0)
    doing.cancel()
    await store.together(lambda _: None)
    assert await count(store) == 1


async def test_however_much_waits_of_one_it_hides_no_other_s(store: Database) -> None:
    first, other = sorted([new_function_id(), new_function_id()])
    later = [waiting(first, "late", next_ms=NOW + 1) for _ in range(3)]
    many = [waiting(first, "many", next_ms=NOW - n) for n in range(300)]
    theirs = [waiting(first, "one"), waiting(other, "many"), waiting(other)]
    ended = waiting(first, "ended", state="canceled", ended_ms=NOW)
    await fill(store, [*later, *many, *theirs])
    await fill(store, [ended])
    found = await store.look(lambda session: due_work(session, NOW, FIRST))
    ids = [row.id for row in found.rows]
    assert found.next == FIRST
    assert {row["id"] for row in theirs} <= set(ids)
    assert [each for each in ids if each not in {row["id"] for row in theirs}] == [
        row["id"] for row in reversed(many)
    ][:OF_EACH_LANE]


async def test_a_look_goes_on_where_the_last_has_ended(store: Database) -> None:
    function_id = new_function_id()
    rows = [waiting(function_id, f"user-{n:04}") for n in range(2 * LANES_AT_ONCE + 5)]
    await fill(store, rows)
    seen, last = await looks(store, 3)
    assert seen == [row["id"] for row in rows]
    assert last == FIRST


async def looks(store: Database, count: int) -> tuple[list[str], Place]:
    """Return what so many looks find, one after the other, and where the next begins."""
    seen: list[str] = []
    at = FIRST
    for _ in range(count):
        found = await store.look(lambda session, at=at: due_work(session, NOW, at))
        seen += [row.id for row in found.rows]
        at = found.next
    return seen, at


async def test_however_many_users_one_function_has_it_hides_no_other(store: Database) -> None:
    """Each look has some of each function, and goes on with each where it was."""
    first, *others, last = sorted(new_function_id() for _ in range(2 * FUNCTIONS_AT_ONCE))
    many = [waiting(first, f"user-{n:04}") for n in range(3 * LANES_AT_ONCE)]
    late = waiting(last)
    await fill(store, [*many, late])
    seen, _ = await looks(store, 1)
    assert late["id"] in seen
    await fill(store, [waiting(each) for each in others])
    seen, _ = await looks(store, 2)
    assert late["id"] in seen
    await store.together(
        lambda session: (
            session.execute(delete(InvocationRow).where(InvocationRow.function_id.in_(others)))
            and None
        )
    )
    seen, after = await looks(store, 6)
    assert {row["id"] for row in many} <= set(seen)
    assert seen.count(late["id"]) == 6
    assert after == FIRST


async def test_a_round_ends_wherever_each_function_is(store: Database) -> None:
    """Nothing is looked for without end because functions have as many users as they like."""
    names = sorted(new_function_id() for _ in range(3))
    lanes = LANES_AT_ONCE // 3
    sizes = (3 * lanes + 1, 2 * lanes + 1, lanes + 1)
    await fill(
        store,
        [
            waiting(name, f"user-{n:04}", next_ms=NOW + 1)
            for name, size in zip(names, sizes, strict=True)
            for n in range(size)
        ],
    )
    rounds: list[int] = []
    at, looked = FIRST, 0
    for _ in range(20):
        at = (await store.look(lambda session, at=at: due_work(session, NOW, at))).next
        looked += 1
        if at.is_round:
            rounds.append(looked)
            looked = 0
    assert rounds[0] == 4
    assert max(rounds) <= 4
    while at.is_round or not at.users:
        at = (await store.look(lambda session, at=at: due_work(session, NOW, at))).next
    await store.together(lambda session: session.execute(delete(InvocationRow)) and None)
    assert (await store.look(lambda session: due_work(session, NOW, at))).next == FIRST


async def test_no_more_waits_than_may(store: Database) -> None:
    """Of a function and of an account; what has ended makes room, a moment later."""
    now = NOW
    limits = WaitingLimits(lambda: now, per_function=30, per_account=50)
    one, two = new_function_id(), new_function_id()

    async def take(function_id: str) -> None:
        row = waiting(function_id)

        def work(session: Session) -> None:
            limits.check(session, InvocationRow(**row))
            add(session, row)

        await store.together(work)

    async def until_full(function_id: str) -> tuple[int, str]:
        for taken in range(100):
            try:
                await take(function_id)
            except QuotaExceeded as error:
                return taken, error.detail
        raise AssertionError("never full")

    assert await until_full(one) == (
        30,
        "The function has 30 invocations waiting, as many as it may.",
    )
    assert await until_full(two) == (
        20,
        "The account has 50 invocations waiting, as many as it may.",
    )
    await store.together(lambda session: session.execute(delete(InvocationRow)) and None)
    now += COUNTED_MS
    await take(two)


async def test_no_more_is_kept_than_may(store: Database) -> None:
    """Of what an account's invocations have in them, whether they wait or have ended."""
    now = NOW
    limits = WaitingLimits(lambda: now, mb_per_account=1)
    function_id, taken = new_function_id(), 0

    async def take(size: int) -> None:
        row = waiting(function_id, event_sealed=bytes(size))

        def work(session: Session) -> None:
            made = InvocationRow(**row)
            made.kept_bytes = made.weight()
            limits.check(session, made)
            session.add(made)

        await store.together(work)

    with pytest.raises(QuotaExceeded, match="invocations take 1 MiB"):
        while True:
            await take(100_000)
            taken += 1
            assert taken <= 10
    assert taken == 10
    now += FULL_MS
    await take(1_000)
    gone = delete(InvocationRow).where(InvocationRow.event_sealed == bytes(100_000))
    await store.together(lambda session: session.execute(gone) and None)
    now += COUNTED_MS
    await take(1_000_000)


async def test_what_waits_is_not_counted_for_each_that_comes(store: Database) -> None:
    statements: list[str] = []

    def heard(_c: object, _u: object, statement: str, *_: object) -> None:
        statements.append(statement)

    for engine in store.engines:
        event.listen(engine, "before_cursor_execute", heard)
    limits, function_id = WaitingLimits(lambda: NOW), new_function_id()
    for _ in range(50):
        row = InvocationRow(**waiting(function_id))
        await store.together(lambda session, row=row: limits.check(session, row))
    assert sum("count(" in each for each in statements) == 2


async def test_a_query_takes_the_index_that_it_is_told(folder: Path) -> None:
    """On SQLite, where hints would be left out else: what waits is counted by what waits alone."""
    settings = settings_for(folder, None)
    settings.server_dir.mkdir()
    store = Database(url_of(settings))
    queries: list[str] = []
    limits, row = WaitingLimits(lambda: NOW), InvocationRow(**waiting(new_function_id()))
    try:
        await store.open()
        for engine in store.engines:
            event.listen(engine, "before_cursor_execute", lambda *each: queries.append(each[2]))
        await store.look(lambda session: limits.check_waiting(session, row))
    finally:
        await store.close()
    counts = [query for query in queries if "count" in query]
    assert ["INDEXED BY" in query for query in counts] == [True, True]


async def test_accounts_have_as_much_of_the_time(store: Database) -> None:
    """However much comes of one before it, another's is done next; in its turn, when it comes again
    and again; and what is of one account is done in the order in which it came."""
    done: list[str] = []

    def long(name: str) -> None:
        time.sleep(0.02)
        done.append(name)

    loud = [f"loud {number}" for number in range(30)]
    whole = [store.together(lambda _, name=name: long(name), "loud") for name in loud]
    waits = asyncio.gather(*whole, store.together(lambda _: done.append("first"), "quiet"))
    await asyncio.sleep(0)
    for name in ("second", "third"):
        await store.together(lambda _, name=name: done.append(name), "quiet")
    assert len(done) < 30
    await waits
    assert [each for each in done if each.startswith("loud")] == loud
    assert done.index("first") < 3


async def test_a_transaction_that_took_long_is_ended(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left is done in the next, and where one fails that is so for it alone."""
    monkeypatch.setattr("cakework.server.store.together.LONG_S", 0.0)
    commits: list[object] = []
    for engine in store.engines:
        event.listen(engine, "commit", commits.append)
    rows = [waiting(new_function_id()) for _ in range(10)]
    rows[4]["id"] = rows[3]["id"]
    ends = await asyncio.gather(
        *(store.together(lambda session, row=row: add(session, row)) for row in rows),
        return_exceptions=True,
    )
    assert [isinstance(end, IntegrityError) for end in ends] == [n == 4 for n in range(10)]
    assert len(commits) == 9
    assert await count(store) == 9
