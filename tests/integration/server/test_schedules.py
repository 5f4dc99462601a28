"""The schedules' loop: each occurrence is one invocation, and what its trigger says of overlap and
of what was missed is kept to; on both stores, with a clock that the test moves."""

import asyncio
import contextlib
import json
import random
from collections import Counter
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any, cast

import pytest
from sqlalchemy import event
from sqlalchemy.orm import Session

from cakework.domain.invocations import HELD_MS
from cakework.domain.occurrences import LATE_MS, offset_s
from cakework.server.automations import schedules as loop
from cakework.server.automations.firings import AGAIN_MS, AT_ONCE, FULL_MS, Plan
from cakework.server.automations.schedules import Schedules
from cakework.server.functions.flow import Flow
from cakework.server.functions.gatherings import Gatherings
from cakework.server.functions.invocations import Invocations
from cakework.server.functions.meters import Meters
from cakework.server.functions.starts import Starts
from cakework.server.functions.waiting import WaitingLimits
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.database import Database
from cakework.server.store.function_models import InvocationRow
from cakework.server.store.together import Work
from tests.properties import examples

from .rig import settings_for
from .scheduling import HOUR, MINUTE, NOON, SECOND, Bench, bench

pytestmark = pytest.mark.anyio
MINUTES = {"cron": "* * * * *"}


@pytest.fixture
async def on(folder: Path, database_url: str | None) -> AsyncGenerator[Bench]:
    async with bench(settings_for(folder, database_url)) as made:
        yield made


async def test_an_occurrence_is_an_invocation(on: Bench) -> None:
    """At its time, once, with an event that says when it was to be; then the next one is due."""
    function_id = await on.function()
    trigger_id = await on.trigger(function_id, **MINUTES, data={"a": 1})
    await on.change(trigger_id, user_id="ada", retry=json.dumps({"maxAttempts": 7}))
    await on.at(NOON - 1)
    assert await on.made() == []
    await on.at(NOON + 20)
    await on.at(NOON + 21)
    (made,) = await on.made()
    assert (made.trigger_id, made.scheduled_ms) == (trigger_id, NOON)
    assert (made.function_id, made.user_id, made.trigger) == (function_id, "ada", "cron")
    assert (made.state, made.kind, made.next_ms) == ("queued", "queued", NOON + 20)
    assert json.loads(made.retry or "")["maxAttempts"] == 7
    told = json.loads(on.servers[0].functions.invocations.event(made))
    assert told == {
        "specversion": "1.0",
        "id": made.id,
        "type": "cakework.trigger.cron",
        "source": f"/triggers/{trigger_id}",
        "time": "2026-12-01T12:00:00.000Z",
        "data": {"a": 1},
    }
    assert (await on.row(trigger_id)).next_ms == NOON + MINUTE


async def test_it_comes_later_by_its_spread(on: Bench) -> None:
    """The invocation is for that time, too, which is what is shown as its next."""
    trigger_id = await on.trigger(await on.function(), cron="0 * * * *", spread=1_000)
    later = offset_s(trigger_id, 1_000) * SECOND
    await on.at(NOON + later - 1)
    assert await on.made() == []
    await on.at(NOON + later)
    assert await on.told(trigger_id) == [(NOON + later, "queued", None)]


@pytest.mark.parametrize(
    "values", [{"enabled": False}, {"paused_reason": "It fails."}, {"next_ms": None}]
)
async def test_what_is_off_makes_nothing(on: Bench, values: dict[str, Any]) -> None:
    """Neither then nor afterwards for the time in which it was off."""
    trigger_id = await on.trigger(await on.function(), **MINUTES)
    await on.change(trigger_id, **values)
    await on.at(NOON + HOUR)
    assert await on.made() == []


async def test_what_has_no_next_time_is_done(on: Bench) -> None:
    """Once, and a window that is over."""
    function_id = await on.function()
    once = await on.trigger(function_id, at="2026-12-01T12:00:00Z")
    ended = await on.trigger(function_id, **MINUTES, endAt="2026-12-01T12:00:30Z")
    never = await on.trigger(function_id, at="2026-12-01T12:00:00Z", missed="skip")
    await on.change(never, next_ms=NOON - HOUR)
    await on.at(NOON)
    for trigger_id, times in ((once, [NOON]), (ended, [NOON]), (never, [])):
        row = await on.row(trigger_id)
        assert (row.next_ms, row.paused_reason, row.enabled) == (None, "done", True)
        assert [each.scheduled_ms for each in await on.made(trigger_id)] == times


@pytest.mark.parametrize("how", ["queued", "running", "waiting"])
async def test_what_overlaps_is_skipped(on: Bench, how: str) -> None:
    """On record, with its reason, as long as the one before has not ended, retries counted."""
    trigger_id = await on.trigger(await on.function(), **MINUTES)
    await on.at(NOON)
    (first,) = await on.made()
    if how != "queued":
        await on.begin(first)
    if how == "waiting":
        await on.fail(first)
    await on.at(NOON + MINUTE)
    assert await on.told(trigger_id) == [
        (NOON, how, None),
        (NOON + MINUTE, "skipped", "overlap"),
    ]
    await on.end(first)
    await on.at(NOON + 2 * MINUTE)
    assert (await on.told(trigger_id))[2] == (NOON + 2 * MINUTE, "queued", None)


async def test_what_overlaps_is_made_where_that_is_allowed(on: Bench) -> None:
    trigger_id = await on.trigger(await on.function(), **MINUTES, overlap="allow")
    for number in range(3):
        await on.at(NOON + number * MINUTE)
    made = await on.made(trigger_id)
    assert [each.state for each in made] == ["queued"] * 3
    assert all(each.next_ms < HELD_MS for each in made)


async def test_one_waits_for_the_one_before(on: Bench) -> None:
    """Later ones take its place; it may begin when the one before has ended, and no sooner."""
    trigger_id = await on.trigger(await on.function(), **MINUTES, overlap="queue")
    await on.at(NOON)
    (first,) = await on.made()
    await on.begin(first)
    for number in (1, 2, 3):
        await on.at(NOON + number * MINUTE)
    assert await on.told(trigger_id) == [
        (NOON, "running", None),
        (NOON + MINUTE, "skipped", "superseded"),
        (NOON + 2 * MINUTE, "skipped", "superseded"),
        (NOON + 3 * MINUTE, "queued", None),
    ]
    assert (await on.made(trigger_id))[3].next_ms == HELD_MS
    await on.fail(first)
    await on.at(NOON + 3 * MINUTE + SECOND)
    assert (await on.made(trigger_id))[3].next_ms == HELD_MS
    await on.end(first)
    await on.at(NOON + 3 * MINUTE + 2 * SECOND)
    assert (await on.made(trigger_id))[3].next_ms == NOON + 3 * MINUTE + 2 * SECOND
    await on.at(NOON + 4 * MINUTE)
    assert [each.next_ms == HELD_MS for each in await on.made(trigger_id)][3:] == [False, True]


async def test_the_new_one_replaces_what_has_not_begun(on: Bench) -> None:
    """Queued or between attempts: that is over at once, and the new one may begin."""
    trigger_id = await on.trigger(await on.function(), **MINUTES, overlap="replace")
    await on.at(NOON)
    await on.at(NOON + MINUTE)
    _, second = await on.made()
    await on.begin(second)
    await on.fail(second)
    await on.at(NOON + 2 * MINUTE)
    assert await on.told(trigger_id) == [
        (NOON, "canceled", "superseded"),
        (NOON + MINUTE, "canceled", "superseded"),
        (NOON + 2 * MINUTE, "queued", None),
    ]
    assert (await on.made())[2].next_ms == NOON + 2 * MINUTE


async def test_the_new_one_replaces_what_runs_when_that_is_gone(on: Bench) -> None:
    """The running one is canceled, and the new one held until it has ended; a still newer one takes
    the place of that."""
    trigger_id = await on.trigger(await on.function(), **MINUTES, overlap="replace")
    await on.at(NOON)
    (first,) = await on.made()
    await on.begin(first)
    await on.at(NOON + MINUTE)
    await on.at(NOON + 2 * MINUTE)
    assert await on.told(trigger_id) == [
        (NOON, "running", "superseded"),
        (NOON + MINUTE, "skipped", "superseded"),
        (NOON + 2 * MINUTE, "queued", None),
    ]
    running, _, newest = await on.made()
    assert (running.cancel, newest.next_ms) == (True, HELD_MS)
    await on.end(first)
    await on.at(NOON + 2 * MINUTE + SECOND)
    assert (await on.made())[2].next_ms == NOON + 2 * MINUTE + SECOND


async def test_the_latest_makes_up_for_what_was_missed(on: Bench) -> None:
    """One run, which tells for how many; and not when that is too long ago."""
    function_id = await on.function()
    minutes = await on.trigger(function_id, **MINUTES)
    noons = await on.trigger(function_id, cron="0 12 * * *", missedWindow=600)
    await on.at(NOON + 11 * MINUTE)
    (made,) = await on.made(minutes)
    told = json.loads(on.servers[0].functions.invocations.event(made))
    assert (told["time"], told["cakeworkmissed"]) == ("2026-12-01T12:11:00.000Z", 11)
    assert await on.made(noons) == []
    assert (await on.row(noons)).next_ms == NOON + 24 * HOUR


async def test_all_make_up_for_themselves(on: Bench) -> None:
    """Each with its own time, within one pass."""
    trigger_id = await on.trigger(
        await on.function(), **MINUTES, missed="all", overlap="allow", missedWindow=86_400
    )
    await on.at(NOON + 3 * HOUR)
    made = await on.made(trigger_id)
    # A hundred that were missed, and the one that is in time.
    assert [each.scheduled_ms for each in made] == [
        NOON + number * MINUTE for number in range(80, 181)
    ]
    events = [json.loads(on.servers[0].functions.invocations.event(each)) for each in made]
    assert [each.get("cakeworkmissed", 0) for each in events] == [81, *[1] * 99, 0]


async def test_a_short_outage_misses_nothing(on: Bench) -> None:
    """Even where what is missed is to be skipped."""
    trigger_id = await on.trigger(await on.function(), every=10, missed="skip", overlap="allow")
    await on.at(NOON + LATE_MS - 1)
    assert [each.scheduled_ms for each in await on.made(trigger_id)] == [
        NOON + 10 * SECOND * number for number in range(6)
    ]
    await on.at(NOON + HOUR)
    assert len(await on.made(trigger_id)) == 12


async def test_a_change_of_the_zone_makes_nothing_of_the_past(on: Bench) -> None:
    """What is no time of the schedule any more is not made; the next one is."""
    trigger_id = await on.trigger(await on.function(), cron="0 * * * *", timeZone="Europe/Berlin")
    await on.change(trigger_id, next_ms=NOON - 30 * MINUTE)
    await on.at(NOON - 20 * MINUTE)
    assert await on.made() == []
    assert (await on.row(trigger_id)).next_ms == NOON
    await on.at(NOON)
    assert len(await on.made()) == 1


async def test_an_occurrence_on_record_is_not_made_again(on: Bench) -> None:
    """As where a clock was set back, and the schedule then was changed."""
    trigger_id = await on.trigger(await on.function(), **MINUTES)
    other = await on.trigger(await on.function(), **MINUTES)
    await on.at(NOON)
    await on.change(trigger_id, next_ms=NOON)
    await on.at(NOON + SECOND)
    assert await on.told(trigger_id) == [(NOON, "queued", None)]
    assert (await on.row(trigger_id)).next_ms == (await on.row(other)).next_ms == NOON + MINUTE


async def test_a_schedule_that_is_none_any_more_is_paused(on: Bench) -> None:
    """It says why, and holds up nobody else's."""
    function_id = await on.function()
    broken = await on.trigger(function_id, **MINUTES)
    other = await on.trigger(function_id, **MINUTES)
    await on.change(broken, config=json.dumps({"cron": "0 9 * * *", "timeZone": "Mars/Olympus"}))
    await on.at(NOON)
    row = await on.row(broken)
    assert row.next_ms is None
    assert "not valid any more" in (row.paused_reason or "")
    assert "timeZone" in (row.paused_reason or "")
    assert len(await on.made(other)) == 1


def crowded(on: Bench, **limits: int) -> Schedules:
    """Return schedules whose queue has little room."""
    server = on.servers[0]
    settings, nothing = server.functions.functions.settings, lambda: None
    meters, gatherings = Meters(lambda: on.now), Gatherings(server.sealer)
    flow = Flow(
        *(server.sealer, settings, meters, gatherings, cast("Any", None)),
        *(lambda: on.now, nothing, nothing),
    )
    limited = Invocations(
        on.database,
        server.sealer,
        cast("Starts", None),
        WaitingLimits(lambda: on.now, **limits),
        flow,
        cast("Any", None),
        lambda: on.now,
        lambda: None,
        lambda _: None,
    )
    return Schedules(on.database, limited, lambda: on.now, asyncio.Event(), lambda: None)


async def test_a_full_queue_holds_up_its_function_alone(on: Bench) -> None:
    """What finds no room waits for it, and is made as soon as there is some, for its time."""
    full, free = await on.function(), await on.function()
    waits = [await on.trigger(full, **MINUTES) for _ in range(3)]
    await on.at(NOON)
    first = await on.made()
    assert len(first) == 3
    schedules = crowded(on, per_function=3)
    other = await on.trigger(free, cron="2 * * * *")
    await on.trigger(full, cron="2 * * * *", overlap="allow")
    on.now = NOON + 2 * MINUTE
    await schedules.one_pass()
    late = [each for each in await on.made() if (each.scheduled_ms or 0) > NOON]
    # Those of others are skipped, which waits for nothing.
    assert {each.trigger_id for each in late if each.state == "queued"} == {other}
    assert {each.trigger_id for each in late if each.state == "skipped"} == set(waits)
    for each in first:
        await on.end(each)
    await schedules.one_pass()
    assert len(await on.made()) == len(first) + len(late)
    on.now += FULL_MS
    await schedules.one_pass()
    newest = [each for each in await on.made() if each.created_ms == on.now]
    assert [(each.scheduled_ms, each.state) for each in newest] == [
        (NOON + 2 * MINUTE, "queued"),
    ]
    schedules.close()


async def test_what_never_finds_room_was_missed(on: Bench) -> None:
    """Of it goes what the trigger says of that; nobody tries for ever."""
    function_id = await on.function()
    skips = await on.trigger(function_id, cron="0 * * * *", missed="skip")
    latest = await on.trigger(function_id, cron="0 * * * *", missedWindow=120)
    full = crowded(on, per_function=0)
    for on.now in (NOON, NOON + LATE_MS, NOON + 90 * SECOND):
        await full.one_pass()
    assert (await on.row(skips)).next_ms == NOON + HOUR
    assert (await on.row(latest)).next_ms == NOON
    on.now = NOON + 121 * SECOND
    await full.one_pass()
    assert (await on.row(latest)).next_ms == NOON + HOUR
    assert await on.made() == []
    full.close()


async def test_accounts_take_turns(on: Bench) -> None:
    """Three hundred of one account's, due for longer, hold up another's one hardly at all."""
    mine, theirs = await on.function(), await on.function(await on.account("other"))
    await on.triggers(300, mine, **MINUTES, overlap="allow")
    on.now = NOON
    one = await on.trigger(theirs, "other", every=30)
    pieces: list[list[str | None]] = []

    def counts(session: Session, *_: object) -> None:
        made = [each.trigger_id for each in session.new if isinstance(each, InvocationRow)]
        if made:
            pieces.append(made)

    event.listen(Session, "before_flush", counts)
    try:
        await on.at(NOON + 30 * SECOND)
    finally:
        event.remove(Session, "before_flush", counts)
    assert one in pieces[0]
    assert len(pieces[0]) <= AT_ONCE
    assert len(await on.made()) == 301


async def test_one_that_cannot_be_recorded_holds_up_nobody(
    on: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is left alone for a minute, and the others are made."""
    function_id = await on.function()
    ids = await on.triggers(5, function_id, **MINUTES)
    await on.change(ids[2], retry="{")
    monkeypatch.setattr(loop, "_log", _Silent())
    await on.at(NOON)
    assert {each.trigger_id for each in await on.made()} == set(ids) - {ids[2]}
    await on.change(ids[2], retry=None)
    await on.at(NOON + SECOND)
    assert len(await on.made()) == 4
    await on.at(NOON + loop.PUT_OFF_MS)
    assert (await on.made(ids[2]))[0].scheduled_ms == NOON + MINUTE


class _Silent:
    """A log that takes tracebacks that are meant to be."""

    def exception(self, *_: object, **__: object) -> None:
        pass

    warning = info = exception


async def test_a_trigger_that_changed_meanwhile_is_looked_at_again(
    on: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was planned of it as it was is not done."""
    trigger_id = await on.trigger(await on.function(), **MINUTES)
    plan_of, changed = loop.plan_of, asyncio.Event()

    def planned(row: Any, now: int) -> Any:
        plan = plan_of(row, now)
        asyncio.run_coroutine_threadsafe(change(), running).result()
        return plan

    async def change() -> None:
        if not changed.is_set():
            changed.set()
            await on.change(trigger_id, config=json.dumps({"cron": "30 * * * *"}), next_ms=NOON + 1)

    running = asyncio.get_running_loop()
    monkeypatch.setattr(loop, "plan_of", planned)
    await on.at(NOON)
    assert (await on.made(), changed.is_set()) == ([], True)
    await on.at(NOON + AGAIN_MS)
    assert await on.made() == []
    assert (await on.row(trigger_id)).next_ms == NOON + 30 * MINUTE


async def test_it_sleeps_until_something_is_due(on: Bench) -> None:
    """A pass leaves word when the next one is to be, and none where nothing is to come."""
    hinted = asyncio.Event()
    invocations = on.servers[0].functions.invocations
    schedules = Schedules(on.database, invocations, lambda: on.now, hinted, lambda: None)
    await schedules.one_pass()
    await asyncio.sleep(0)
    assert not hinted.is_set()
    trigger_id = await on.trigger(await on.function(), **MINUTES)
    on.now = NOON - 5
    await schedules.one_pass()
    await hinted.wait()
    hinted.clear()
    await on.change(trigger_id, enabled=False)
    await schedules.one_pass()
    await asyncio.sleep(0.02)
    assert not hinted.is_set()


async def test_it_costs_two_queries_to_look(on: Bench) -> None:
    """However many triggers there are that are not due."""
    await on.triggers(500, await on.function(), **MINUTES)
    queries: list[str] = []

    def counts(_: object, __: object, statement: str, *___: object) -> None:
        if not statement.startswith("BEGIN"):
            queries.append(statement)

    for engine in on.database.engines:
        event.listen(engine, "before_cursor_execute", counts)
    await on.at(NOON - 1)
    assert len(queries) == 2, queries


async def test_two_servers_make_each_once(on: Bench) -> None:
    """A thousand, due at once, of two servers that look at once, again and again."""
    function_id = await on.function()
    await on.triggers(1_000, function_id, **MINUTES, overlap="allow")
    async with on.server() as other:
        for number in range(2):
            on.now = NOON + number * MINUTE
            both = [each.automations.schedules.one_pass() for each in (on.servers[0], other)]
            await asyncio.gather(*both)
            on.now += 2 * AGAIN_MS
            await on.schedules.one_pass()
    made = await on.made()
    counts = Counter((each.trigger_id, each.scheduled_ms) for each in made)
    assert set(counts.values()) == {1}
    assert Counter(each.scheduled_ms for each in made) == {NOON: 1_000, NOON + MINUTE: 1_000}


class Crash(Exception):
    """Raised where a transaction is to be taken back, as by a process that is gone."""


class Gone(BaseException):
    """The process is gone."""


class Mortal:
    """A database of a server that may die: before it looks, when all is written and nothing
    committed, and when that is."""

    def __init__(self, database: Database, chance: random.Random) -> None:
        self._database = database
        self._chance = chance
        self.died: Counter[str] = Counter()

    async def look(self, work: Work[Any]) -> Any:
        self._may_die("looks")
        return await self._database.look(work)

    async def together(self, work: Work[Any]) -> Any:
        def within(session: Session) -> Any:
            result = work(session)
            session.flush()
            if self._dies("written"):
                raise Crash
            return result

        try:
            result = await self._database.together(within)
        except Crash as error:
            raise Gone from error
        self._may_die("committed")
        return result

    def _may_die(self, where: str) -> None:
        if self._dies(where):
            raise Gone

    def _dies(self, where: str) -> bool:
        dies = self._chance.random() < 0.2
        self.died[where] += dies
        return dies


async def test_no_crash_loses_or_doubles_an_occurrence(on: Bench) -> None:
    """Hundreds of passes, in each of which the server may die; another goes on. Each occurrence is
    one invocation."""
    ids = await on.triggers(4, await on.function(), **MINUTES, overlap="allow")
    mortal = Mortal(on.database, random.Random(7))
    invocations = on.servers[0].functions.invocations
    on.now = NOON
    for number in range(examples(300)):
        schedules = Schedules(
            cast("Database", mortal), invocations, lambda: on.now, asyncio.Event(), lambda: None
        )
        with contextlib.suppress(Gone):
            await schedules.one_pass()
        schedules.close()
        # Three passes for what is due in a minute; what is late by more than one was missed.
        on.now = NOON + number * MINUTE // 3
        if number % 3 == 2:
            await on.schedules.one_pass()
    await on.schedules.one_pass()
    counts = Counter((each.trigger_id, each.scheduled_ms) for each in await on.made())
    assert set(counts.values()) == {1}
    assert counts.keys() == {
        (each, at_ms) for each in ids for at_ms in range(NOON, on.now + 1, MINUTE)
    }
    assert min(mortal.died[each] for each in ("looks", "written", "committed")) > 15, mortal.died


async def test_of_what_is_open_few_are_looked_at(
    on: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However much a trigger was made to do: of more, those that are to be replaced stay until the
    next time, and the new one is held."""
    monkeypatch.setattr("cakework.server.automations.firings.OPEN_MOST", 3)
    trigger_id = await on.trigger(await on.function(), **MINUTES, overlap="allow")
    for minute in range(6):
        await on.at(NOON + minute * MINUTE)
    await on.change(trigger_id, config=json.dumps({**MINUTES, "overlap": "skip"}))
    await on.at(NOON + 6 * MINUTE)
    await on.change(trigger_id, config=json.dumps({**MINUTES, "overlap": "replace"}))
    await on.at(NOON + 7 * MINUTE)
    told = [(state, why) for _, state, why in await on.told(trigger_id)]
    gone = [("canceled", "superseded")] * 3
    assert told[:7] == [*gone, *[("queued", None)] * 3, ("skipped", "overlap")]
    (held,) = (await on.made(trigger_id))[7:]
    assert (held.state, held.next_ms) == ("queued", HELD_MS)
    await on.at(NOON + 8 * MINUTE)
    open_ = [row.scheduled_ms for row in await on.made(trigger_id) if row.state == "queued"]
    assert open_ == [NOON + 5 * MINUTE, NOON + 8 * MINUTE]


async def test_what_cannot_be_planned_holds_up_nobody(
    on: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is put off, whatever is wrong with it."""
    function_id = await on.function()
    first, second = await on.triggers(2, function_id, **MINUTES)
    plan_of = loop.plan_of

    def broken(row: TriggerRow, now_ms: int) -> Plan:
        if row.id == first:
            raise ZeroDivisionError
        return plan_of(row, now_ms)

    monkeypatch.setattr(loop, "plan_of", broken)
    await on.at(NOON)
    assert [row.trigger_id for row in await on.made()] == [second]
    monkeypatch.undo()
    await on.at(NOON + loop.PUT_OFF_MS + 1)
    assert len(await on.made(first)) == 1
