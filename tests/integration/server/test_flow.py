"""Flow control: what is held, skipped, gathered and let go, on either store, by a clock that is
set. With instances: test_flow_instances.py."""

import asyncio
import json
import random
from collections import Counter, defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import delete, select, update

from cakework.domain.flow import HELD_MS, Meter
from cakework.domain.ids import AccountId, FunctionId, InvocationId
from cakework.domain.invocations import Reason
from cakework.server.functions import flow, flow_loop
from cakework.server.functions.gatherings import BYTES_MAX
from cakework.server.functions.invocations import Entry, NewInvocation
from cakework.server.functions.meters import Key, Meters
from cakework.server.functions.passages import Passage
from cakework.server.store.automation_models import TriggerRow
from cakework.server.store.flow_models import MemberRow, MeterRow, TicketRow
from cakework.server.store.function_models import FunctionRow, InvocationRow

from .flow_bench import Bench, bench_of, heard

pytestmark = pytest.mark.anyio
ONE = {"type": "concurrency", "limit": 1, "key": "data.customer"}
Json = dict[str, Any]


@pytest.fixture
async def bench(folder: Path, database_url: str | None) -> AsyncGenerator[Bench]:
    async with bench_of(folder, database_url) as made:
        yield made


def of(customer: object, **more: object) -> Json:
    return {"customer": customer, **more}


@pytest.mark.parametrize("limit", [1, 3])
async def test_never_more_run_at_once_than_may(bench: Bench, limit: int) -> None:
    """Of 200 that come at once, with three keys; each key by itself, and all are done. With one
    place they begin as they were accepted."""
    function_id = await bench.function([{**ONE, "limit": limit}])
    luck, most = random.Random(11), Counter[str]()
    customers = [luck.choice("abc") for _ in range(200)]
    taken = await asyncio.gather(*(bench.take(function_id, of(each)) for each in customers))
    key_of = dict(zip((row.id for row in taken), customers, strict=True))
    tickets = await bench.count(TicketRow)
    assert tickets == 200
    running: set[str] = set()
    begun: dict[str, list[str]] = defaultdict(list)
    while sum(map(len, begun.values())) < 200 or running:
        for each in await bench.begin_due():
            running.add(each)
            begun[key_of[each]].append(each)
        at_once = Counter(key_of[each] for each in running)
        most |= at_once
        assert max(at_once.values()) <= limit
        ended = luck.sample(sorted(running), k=luck.randint(1, len(running)))
        await asyncio.gather(*(bench.end(each) for each in ended))
        running.difference_update(ended)
    assert dict(most) == dict.fromkeys("abc", limit)
    assert sum(map(len, begun.values())) == 200
    if limit == 1:
        # The order in which they were committed is that of what came together.
        assert begun == {key: [row.id for row in taken if key_of[row.id] == key] for key in begun}
    assert {await bench.state(each) for each in key_of} == {"succeeded"}
    await bench.is_clean()


async def test_who_waits_is_due_never_and_who_is_let_in_at_once(bench: Bench) -> None:
    function_id = await bench.function([ONE])
    first, second, other = [await bench.take(function_id, of(each)) for each in ("a", "a", "b")]
    assert (first.next_ms, second.next_ms, other.next_ms) == (
        bench.clock.now,
        HELD_MS,
        bench.clock.now,
    )
    assert await bench.begin_due() == [first.id, other.id]
    await bench.end(other.id)
    bench.clock.now += 90 * 86_400_000
    assert await bench.begin_due() == []
    await bench.end(first.id)
    assert (await bench.row(second.id)).next_ms == bench.clock.now
    # Its age is that since it was accepted.
    await bench.server.functions.dispatch.one_pass()
    assert await bench.state(second.id) == "expired: max_age"


@pytest.mark.parametrize("retry", ["keepPlace", "letOthersPass"])
async def test_a_retry_keeps_its_place_unless_others_may_pass(bench: Bench, retry: str) -> None:
    rule = {**ONE, "onRetry": retry}
    function_id = await bench.function([rule], retry={"minDelay": 10, "maxDelay": 10})
    first, second, third = [(await bench.take(function_id, of("a"))).id for _ in range(3)]
    await bench.begin(first)
    await bench.end(first, Reason.HANDLER_ERROR)
    assert await bench.state(first) == "waiting"
    if retry == "keepPlace":
        assert await bench.begin_due() == []
        await bench.flow(after_ms=10_000)
        assert await bench.begin_due() == [first]
        await bench.end(first)
        assert await bench.begin_due() == [second]
        return
    assert (await bench.row(first)).next_ms == HELD_MS
    assert await bench.begin_due() == [second]
    await bench.flow(after_ms=10_000)
    assert await bench.begin_due() == []
    await bench.end(second)
    # It waits behind who was ready before it was.
    assert await bench.begin_due() == [third]
    await bench.end(third)
    assert await bench.begin_due() == [first]
    await bench.end(first)
    assert await bench.state(first) == "succeeded"
    await bench.is_clean()


async def test_of_two_rules_the_later_place_is_let_go_with_the_earlier(bench: Bench) -> None:
    """So nobody waits in a circle: places are taken in one order, also after a retry."""
    rules = [{**ONE, "onRetry": "letOthersPass"}, {"type": "concurrency", "limit": 1}]
    function_id = await bench.function(rules, retry={"minDelay": 10, "maxDelay": 10})
    first, second, other = [
        (await bench.take(function_id, of(each))).id for each in ("a", "a", "b")
    ]
    assert await bench.begin_due() == [first]
    await bench.end(first, Reason.TIMEOUT)
    assert await bench.begin_due() == [second]
    await bench.flow(after_ms=10_000)
    await bench.end(second)
    assert await bench.begin_due() == [other]
    await bench.end(other)
    assert await bench.begin_due() == [first]
    await bench.end(first)
    await bench.is_clean()


async def test_what_is_beyond_is_skipped_or_takes_the_place(bench: Bench) -> None:
    skips = await bench.function([{**ONE, "strategy": "skip"}])
    first, second = [(await bench.take(skips, of("a"))).id for _ in range(2)]
    assert await bench.state(second) == "skipped: overlap"
    await bench.finish(first)
    assert (await bench.take(skips, of("a"))).state == "queued"
    replaces = await bench.function([{**ONE, "strategy": "replace"}])
    one, two, three, four = [(await bench.take(replaces, of("a"))).id for _ in range(4)]
    assert [await bench.state(each) for each in (one, two, three)] == ["skipped: superseded"] * 3
    await bench.begin(four)
    five, six = [(await bench.take(replaces, of("a"))).id for _ in range(2)]
    assert (await bench.row(four)).cancel
    assert await bench.state(five) == "skipped: superseded"
    assert (await bench.row(six)).next_ms == HELD_MS
    await bench.end(four, Reason.CRASH)
    assert await bench.state(four) == "canceled: superseded"
    await bench.finish(six)
    await bench.begin(again := (await bench.take(replaces, of("a"))).id)
    await bench.end(again, Reason.HANDLER_ERROR)
    last = await bench.take(replaces, of("a"))
    assert await bench.state(again) == "canceled: superseded"
    assert last.next_ms == bench.clock.now
    await bench.finish(last.id)


async def test_what_succeeded_though_it_was_to_give_way_has_succeeded(bench: Bench) -> None:
    function_id = await bench.function([{**ONE, "strategy": "replace"}])
    first = (await bench.take(function_id, of("a"))).id
    await bench.begin(first)
    second = (await bench.take(function_id, of("a"))).id
    await bench.end(first)
    assert await bench.state(first) == "succeeded"
    assert await bench.begin_due() == [second]


async def ends_by_cancel(bench: Bench, function_id: str, invocation_id: str) -> None:
    await bench.cancel(function_id, invocation_id)


async def ends_by_running_and_cancel(bench: Bench, function_id: str, invocation_id: str) -> None:
    await bench.begin(invocation_id)
    await bench.cancel(function_id, invocation_id)
    await bench.end(invocation_id, Reason.CRASH)


async def ends_by_crash(bench: Bench, function_id: str, invocation_id: str) -> None:
    await bench.set(invocation_id, max_attempts=1)
    await bench.begin(invocation_id)
    await bench.end(invocation_id, Reason.CRASH)


async def ends_by_timeout(bench: Bench, function_id: str, invocation_id: str) -> None:
    await bench.set(invocation_id, max_attempts=1)
    await bench.begin(invocation_id)
    await bench.end(invocation_id, Reason.TIMEOUT)


async def ends_by_age(bench: Bench, function_id: str, invocation_id: str) -> None:
    """It is due, and too old: the dispatch loop's pass finds that."""
    await bench.set(invocation_id, ttl_ms=bench.clock.now - 1)
    await bench.server.functions.dispatch.one_pass()
    assert await bench.state(invocation_id) == "expired: ttl"


async def ends_without_a_word(bench: Bench, function_id: str, invocation_id: str) -> None:
    """As by a fault of ours: nobody tells the flow, and the sweep finds it."""
    now = bench.clock.now
    await bench.set(invocation_id, state="canceled", ended_ms=now)
    await bench.sweep()


async def is_gone(bench: Bench, function_id: str, invocation_id: str) -> None:
    async with bench.server.database.writing() as session:
        await session.execute(delete(InvocationRow).where(InvocationRow.id == invocation_id))
    await bench.sweep()


@pytest.mark.parametrize(
    "ends",
    [
        *(ends_by_cancel, ends_by_running_and_cancel, ends_by_crash, ends_by_timeout),
        *(ends_by_age, ends_without_a_word, is_gone),
    ],
)
async def test_a_place_is_free_however_it_ended(bench: Bench, ends: Any) -> None:
    function_id = await bench.function([ONE])
    first, second = [(await bench.take(function_id, of("a"))).id for _ in range(2)]
    await ends(bench, function_id, first)
    assert (await bench.row(second)).next_ms == bench.clock.now
    await bench.finish(second)
    await bench.is_clean()


async def test_who_gives_up_in_line_holds_up_nobody(bench: Bench) -> None:
    function_id = await bench.function([ONE])
    first, second, third = [(await bench.take(function_id, of("a"))).id for _ in range(3)]
    await bench.cancel(function_id, second)
    await bench.finish(first)
    assert await bench.begin_due() == [third]


async def test_a_deleted_function_leaves_nothing(bench: Bench) -> None:
    rules: list[Json] = [ONE, {"type": "batch", "maxSize": 5, "maxWait": 10}]
    function_id = await bench.function([ONE])
    batches = await bench.function(rules)
    rows = [await bench.take(function_id, of("a")) for _ in range(3)]
    rows += [await bench.take(batches, of("a")) for _ in range(3)]
    await bench.begin(rows[0].id)
    for each in (function_id, batches):
        await bench.server.functions.functions.delete(AccountId("default"), FunctionId(each))
    await bench.end(rows[0].id, Reason.CRASH)
    states = {await bench.state(each.id) for each in rows}
    assert states == {"canceled: function_deleted"}
    await bench.is_clean()


async def test_starts_are_spread_in_time(bench: Bench) -> None:
    """Two a minute and three at once after a rest; each key by itself."""
    rule = {"type": "throttle", "limit": 2, "period": 60, "burst": 3, "key": "userId"}
    function_id = await bench.function([rule])
    begun_ms: list[int] = []
    for _ in range(6):
        await bench.take(function_id, user="u1")
    other = await bench.take(function_id, user="u2")
    assert other.next_ms == bench.clock.now
    await bench.finish(other.id)
    start = bench.clock.now
    for _ in range(100):
        for each in await bench.begin_due():
            begun_ms.append(bench.clock.now - start)
            await bench.end(each)
        bench.clock.now += 1_000
    assert begun_ms == [0, 0, 0, 30_000, 60_000, 90_000]
    assert await bench.count(TicketRow) == 0
    await bench.is_clean()


async def test_a_start_that_is_spread_takes_its_place_when_it_comes(bench: Bench) -> None:
    """Who waits for a time keeps no place from who does not."""
    rules = [
        {"type": "throttle", "limit": 1, "period": 10, "key": "data.slow"},
        {"type": "concurrency", "limit": 1},
    ]
    function_id = await bench.function(rules)
    one, slow, fast = [(await bench.take(function_id, {"slow": each})).id for each in (1, 1, 2)]
    assert await bench.begin_due() == [one]
    await bench.end(one)
    assert await bench.begin_due() == [fast]
    await bench.flow(after_ms=10_000)
    assert await bench.begin_due() == []
    await bench.end(fast)
    assert await bench.begin_due() == [slow]
    await bench.end(slow)
    await bench.is_clean()


async def test_a_delay_is_over_before_rules_count(bench: Bench) -> None:
    function_id = await bench.function([ONE])
    later = (await bench.take(function_id, of("a"), delay_s=60)).id
    first = (await bench.take(function_id, of("a"))).id
    assert await bench.begin_due() == [first]
    await bench.flow(after_ms=60_000)
    assert await bench.begin_due() == []
    await bench.end(first)
    assert await bench.begin_due() == [later]


async def test_what_is_over_a_rate_is_skipped(bench: Bench) -> None:
    rule = {"type": "rate", "limit": 3, "period": 60, "key": "data.customer"}
    function_id = await bench.function([rule])
    states = [(await bench.take(function_id, of("a"))).state for _ in range(5)]
    assert states == ["queued"] * 3 + ["skipped"] * 2
    row = await bench.take(function_id, of("a"))
    assert (row.reason, row.ended_ms) == ("rate_limited", bench.clock.now)
    assert (await bench.take(function_id, of("b"))).state == "queued"
    bench.clock.now += 20_000
    assert [(await bench.take(function_id, of("a"))).state for _ in range(2)] == [
        "queued",
        "skipped",
    ]
    assert await bench.count(TicketRow) == 0
    again = await bench.server.functions.invocations.replay(
        AccountId("default"), InvocationId(row.id), None, None
    )
    assert again.state == "queued"
    await bench.is_clean()


async def test_a_caller_who_waits_is_told_at_once_that_it_was_skipped(bench: Bench) -> None:
    function_id = await bench.function([{"type": "rate", "limit": 1, "period": 60}])
    await bench.take(function_id)
    invocations = bench.server.functions.invocations
    account, new = AccountId("default"), bench.new()
    found = await invocations.call(account, FunctionId(function_id), new, None, 3600)
    assert (found.row.state, found.row.reason) == ("skipped", "rate_limited")


async def test_a_caller_who_waits_hears_that_a_newer_one_came(bench: Bench) -> None:
    function_id = await bench.function([{"type": "debounce", "period": 60}])
    invocations = bench.server.functions.invocations
    account, new = AccountId("default"), bench.new()
    waits = asyncio.create_task(invocations.call(account, FunctionId(function_id), new, None, 3600))
    while not await bench.count(TicketRow):  # noqa: ASYNC110
        await asyncio.sleep(0.005)
    await bench.take(function_id)
    found = await waits
    assert (found.row.state, found.row.reason) == ("skipped", "superseded")


async def test_only_the_newest_is_done_when_it_is_quiet(bench: Bench) -> None:
    rule = {"type": "debounce", "period": 10, "key": "data.customer"}
    function_id = await bench.function([rule])
    taken: list[str] = []
    for number in range(5):
        taken.append((await bench.take(function_id, of("a", n=number))).id)
        await bench.flow(after_ms=9_999)
    other = (await bench.take(function_id, of("b"))).id
    assert await bench.begin_due() == []
    await bench.flow(after_ms=1)
    assert await bench.begin_due() == [taken[-1]]
    assert [await bench.state(each) for each in taken[:-1]] == ["skipped: superseded"] * 4
    assert await bench.count(TicketRow) == 1
    await bench.flow(after_ms=10_000)
    assert await bench.begin_due() == [other]
    await bench.end(other)
    await bench.end(taken[-1])
    await bench.is_clean()


async def test_what_never_is_quiet_is_done_in_time(bench: Bench) -> None:
    function_id = await bench.function([{"type": "debounce", "period": 10, "maxWait": 25}])
    done: list[int] = []
    start = bench.clock.now
    for second in range(0, 60, 5):
        await bench.take(function_id)
        for _ in range(5):
            await bench.flow(after_ms=1_000)
            for each in await bench.begin_due():
                done.append((bench.clock.now - start) // 1000)
                await bench.end(each)
        assert second <= 55
    assert done == [25, 50]


async def test_events_are_gathered_until_they_are_many_or_it_was_long(bench: Bench) -> None:
    rule = {"type": "batch", "maxSize": 3, "maxWait": 10, "key": "data.customer"}
    function_id = await bench.function([rule])
    taken = [(await bench.take(function_id, of("a", n=n))).id for n in range(7)]
    other = (await bench.take(function_id, of("b", n=9))).id
    assert len({*taken, other}) == 4
    await bench.flow()
    due = await bench.begin_due()
    assert due == [taken[0], taken[3]]
    events = [await bench.event(each) for each in due]
    assert [[each["data"]["n"] for each in event["data"]] for event in events] == [
        [0, 1, 2],
        [3, 4, 5],
    ]
    assert events[0]["type"] == "cakework.batch"
    assert events[0]["data"][1]["type"] == "a"
    assert (await bench.row(due[0])).kept_bytes == (await bench.row(due[0])).weight()
    await bench.flow(after_ms=9_999)
    assert await bench.begin_due() == []
    await bench.flow(after_ms=1)
    rest = await bench.begin_due()
    assert rest == [taken[6], other]
    assert [len((await bench.event(each))["data"]) for each in rest] == [1, 1]
    for each in (*due, *rest):
        await bench.end(each)
    assert await bench.count(InvocationRow) == 4
    await bench.is_clean()


async def test_a_batch_is_tried_again_and_replayed_as_a_whole(bench: Bench) -> None:
    rule = {"type": "batch", "maxSize": 2, "maxWait": 10}
    retry = {"minDelay": 1, "maxDelay": 1, "maxAttempts": 2}
    function_id = await bench.function([rule], retry=retry)
    first, _ = [(await bench.take(function_id, n)).id for n in range(2)]
    await bench.flow()
    for _ in range(2):
        await bench.begin(first)
        await bench.end(first, Reason.HANDLER_ERROR)
        bench.clock.now += 1_000
    assert await bench.state(first) == "failed: handler_error"
    replay = bench.server.functions.invocations.replay
    again = await replay(AccountId("default"), InvocationId(first), None, None)
    assert await bench.begin_due() == [again.id]
    assert [each["data"] for each in (await bench.event(again.id))["data"]] == [0, 1]


async def test_what_is_gathered_is_not_too_large(bench: Bench) -> None:
    """Two that are too large together are two; none is lost, also where it was canceled."""
    rule = {"type": "batch", "maxSize": 100, "maxWait": 10}
    function_id = await bench.function([rule])
    texts = ["x" * (BYTES_MAX // 2), "y" * (BYTES_MAX // 3), "z" * (BYTES_MAX // 3)]
    first, second, third = [(await bench.take(function_id, each)).id for each in texts]
    assert first == second != third
    await bench.cancel(function_id, third)
    await bench.flow(after_ms=10_000)
    assert await bench.begin_due() == [first]
    event = await bench.event(first)
    assert [each["data"] for each in event["data"]] == texts[:2]
    four, five = [(await bench.take(function_id, n)).id for n in range(2)]
    assert four == five
    await bench.cancel(function_id, four)
    await bench.sweep()
    assert [each["data"] for each in (await bench.event(four))["data"]] == [0, 1]
    assert await bench.count(MemberRow) == 0


async def test_no_batch_has_events_that_an_instance_may_not_see_together(bench: Bench) -> None:
    """Of two users, or of two triggers, or what is tried otherwise."""
    function_id = await bench.function([{"type": "batch", "maxSize": 9, "maxWait": 10}])
    taken = [
        (await bench.take(function_id, **more)).id
        for more in (
            *({"user": "u1"}, {"user": "u2"}, {"user": "u1"}, {}),
            *({"trigger": "cron"}, {"version": None, "max_attempts": 1}),
        )
    ]
    assert taken[0] == taken[2]
    assert len(set(taken)) == 5


async def test_a_trigger_s_rules_come_before_its_function_s(bench: Bench) -> None:
    """What is debounced by the trigger does not count for the function until it is done."""
    function_id = await bench.function([{"type": "rate", "limit": 1, "period": 3600}])
    trigger_id = await bench.trigger(function_id, [{"type": "debounce", "period": 10}])
    plain = await bench.trigger(function_id, None)
    first, second = [
        (await bench.take(function_id, trigger="event", trigger_id=trigger_id)).id for _ in range(2)
    ]
    await bench.flow(after_ms=10_000)
    assert await bench.state(first) == "skipped: superseded"
    assert await bench.begin_due() == [second]
    assert (await bench.take(function_id, trigger="event", trigger_id=plain)).state == "skipped"


async def test_what_comes_in_bulk_passes_rules_too(bench: Bench) -> None:
    """As events come to triggers: some with rules, some without, some gathered."""
    plain, ruled = await bench.function([]), await bench.function([ONE])
    gathers = await bench.trigger(plain, [{"type": "batch", "maxSize": 9, "maxWait": 10}])
    quiet = await bench.trigger(plain, None)
    invocations, account = bench.server.functions.invocations, AccountId("default")

    def entry(function_id: str, **more: Any) -> Entry:
        return invocations.entry(account, FunctionId(function_id), bench.new(of("a"), **more))

    entries = [entry(plain), entry(ruled), entry(ruled), entry(plain, trigger_id=quiet)]
    entries += [entry(plain, trigger_id=gathers) for _ in range(3)]
    await bench.server.database.together(
        lambda session: invocations.enter_all(session, account, entries)
    )
    assert await bench.count(InvocationRow) == 5
    assert await bench.count(TicketRow) == 3
    begun = await bench.begin_due()
    assert set(begun) == {entries[n].values["id"] for n in (0, 1, 3)}
    await bench.flow(after_ms=10_000)
    assert await bench.begin_due() == [entries[4].values["id"]]
    assert len((await bench.event(entries[4].values["id"]))["data"]) == 3


async def test_rules_that_change_hold_what_they_hold_otherwise(bench: Bench) -> None:
    function_id = await bench.function([ONE])
    trigger_id = await bench.trigger(function_id, [{"type": "concurrency", "limit": 1}])
    taken = [(await bench.take(function_id, of("a"))).id for _ in range(6)]
    assert len(await bench.begin_due()) == 1
    await bench.set_limits(function_id, [{**ONE, "limit": 3}])
    assert await bench.begin_due() == taken[1:3]
    await bench.set_limits(function_id, [])
    assert await bench.begin_due() == taken[3:]
    for each in taken:
        await bench.end(each)
    by = {"trigger": "event", "trigger_id": trigger_id}
    first, second = [(await bench.take(function_id, **by)).id for _ in range(2)]
    assert await bench.begin_due() == [first]
    async with bench.server.database.writing() as session:
        await session.execute(delete(TriggerRow).where(TriggerRow.id == trigger_id))
    await bench.sweep()
    assert await bench.begin_due() == [second]
    for each in (first, second):
        await bench.end(each)
    await bench.is_clean()


async def test_a_limit_that_is_raised_lets_in_so_many_at_a_time(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others do not wait meanwhile; all are let in by the loop, also by another server's."""
    monkeypatch.setattr(flow, "FEW", 2)
    monkeypatch.setattr(flow, "GIVEN_AT_ONCE", 4)
    let_in: list[int] = []

    async def count_after(done: Awaitable[Any]) -> None:
        await done
        let_in.append(len(await bench.begin_due()))

    function_id = await bench.function([ONE])
    for _ in range(40):
        await bench.take(function_id, of("a"))
    await count_after(bench.flow())
    # One transaction has the tickets go by the rule, the next finds the key with places left.
    await count_after(bench.set_limits(function_id, [{**ONE, "limit": 10_000}]))
    for _ in range(2):
        await count_after(bench.flow())
    assert let_in == [1, 8, 4, 4]
    await count_after(bench.take(function_id, of("a")))
    async with bench.another() as other:
        await count_after(other.sweep())
        while sum(let_in) < 41:
            await count_after(other.flow())
            assert let_in[-1] > 0
    assert let_in[4:6] == [2, 4]
    assert max(let_in) == 8


async def test_a_rule_that_is_gone_leaves_those_that_hold(bench: Bench) -> None:
    """Not what is done with one rule, nor what is to come, has what another holds go on."""
    limits = [{"type": "debounce", "period": 10}, ONE, {"type": "concurrency", "limit": 1}]
    function_id = await bench.function(limits)
    first = (await bench.take(function_id, of("a"))).id
    await bench.set_limits(function_id, [limits[0], limits[2]])
    assert await bench.begin_due() == []
    await bench.flow(after_ms=10_000)
    assert await bench.begin_due() == [first]
    second = (await bench.take(function_id, of("a"))).id
    await bench.flow(after_ms=10_000)
    assert await bench.begin_due() == []
    await bench.set_limits(function_id, [])
    assert await bench.begin_due() == [second]
    assert (await bench.row(first)).state == "running"
    gathers = await bench.function([{"type": "batch", "maxSize": 9, "maxWait": 300}])
    three, four = [(await bench.take(gathers, n)).id for n in range(2)]
    await bench.set_limits(gathers, [])
    await bench.flow()
    assert three == four
    assert await bench.begin_due() == [three]
    assert [each["data"] for each in (await bench.event(three))["data"]] == [0, 1]
    for each in (first, second, three):
        await bench.end(each)
    await bench.is_clean()


async def test_accounts_take_turns_where_much_is_to_go_on(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_loop, "AT_ONCE", 10)
    rule = {"type": "debounce", "period": 10, "key": "data.customer"}
    one, other = [await bench.function([rule], account=each) for each in ("default", "other")]
    for n in range(30):
        await bench.take(one, of(n))
    bench.clock.now += 1
    theirs = (await bench.take(other, of("a"))).id
    await bench.flow(after_ms=20_000)
    begun = await bench.begin_due()
    assert theirs in begun
    assert len(begun) == 6


async def test_what_cannot_be_put_together_holds_up_nobody(bench: Bench) -> None:
    function_id = await bench.function(
        [{"type": "batch", "maxSize": 2, "maxWait": 10, "key": "data.customer"}]
    )
    broken = (await bench.take(function_id, of("a"))).id
    bench.clock.now += 1
    whole = (await bench.take(function_id, of("b"))).id
    sealed = (await bench.row(broken)).event_sealed
    await bench.set(broken, event_sealed=b"x" * len(sealed))
    await bench.flow(after_ms=10_000)
    assert await bench.begin_due() == [whole]
    await bench.set(broken, event_sealed=sealed)
    await bench.flow(after_ms=flow_loop.PUT_OFF_MS)
    assert await bench.begin_due() == [broken]


async def test_rules_that_cannot_be_read_hold_up_nobody_else(bench: Bench) -> None:
    """What they hold goes on by the rules on record."""
    broken, whole = [await bench.function([ONE], account=each) for each in ("default", "other")]
    first, second = [(await bench.take(broken, of("a"))).id for _ in range(2)]
    theirs = [(await bench.take(whole, of("a"))).id for _ in range(2)]
    async with bench.server.database.writing() as session:
        of_broken = update(FunctionRow).where(FunctionRow.id == broken)
        await session.execute(of_broken.values(settings='{"limits":1}'))
    await bench.set_limits(whole, [])
    assert set(await bench.begin_due()) == {first, *theirs}
    assert (await bench.row(second)).next_ms == HELD_MS


@pytest.mark.parametrize("step", ["leave", "fill"])
async def test_a_fault_with_one_account_does_not_end_a_sweep(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    functions = [await bench.function([ONE], account=each) for each in ("default", "other")]
    taken = [[(await bench.take(each, of("a"))).id for _ in range(2)] for each in functions]
    for first, _ in taken:
        await bench.set(first, state="canceled", ended_ms=bench.clock.now)
    if step == "fill":
        # Nobody has a place, and nobody was told.
        async with bench.server.database.writing() as session:
            ended = [first for first, _ in taken]
            await session.execute(delete(TicketRow).where(TicketRow.invocation_id.in_(ended)))
    async with bench.server.database.reading() as session:
        in_line = select(TicketRow.key).where(TicketRow.invocation_id == taken[0][1])
        key = await session.scalar(in_line)
    do: Callable[..., None] = getattr(Passage, step)

    def fails(self: Passage, of_whom: Any) -> None:
        if key == of_whom or taken[0][0] in of_whom:
            raise RuntimeError("a fault of ours")
        do(self, of_whom)

    monkeypatch.setattr(Passage, step, fails)
    await bench.sweep()
    assert await bench.begin_due() == [taken[1][1]]
    monkeypatch.undo()
    await bench.sweep()
    assert await bench.begin_due() == [taken[0][1]]


async def test_keys_of_strangers_cost_little(bench: Bench) -> None:
    """However large a value is, its key is short; and 1 is 1.0, but not text or nothing."""
    function_id = await bench.function([ONE])
    large = "k" * (1_000_000)
    for value in (large, 1, "1", None, True, ["a"], {"b": 1}, "absent", '"1"'):
        first = await bench.take(function_id, of(value))
        assert first.next_ms < HELD_MS or isinstance(value, dict)
    assert (await bench.take(function_id, of(large))).next_ms == HELD_MS
    assert (await bench.take(function_id, of(1.0))).next_ms == HELD_MS
    # What is no plain value is as good as nothing.
    assert (await bench.take(function_id, {})).next_ms == HELD_MS
    assert (await bench.take(function_id, "no object")).next_ms == HELD_MS


async def test_there_are_only_so_many_keys_of_an_account(bench: Bench) -> None:
    """A thousand keys make a hundred rows and one for all others; another account has its own."""
    meters, meter = Meters(bench.clock, keys_per_account=100), Meter(1_000_000, 1)
    await bench.function([], account="other")
    await bench.function([])

    async def admit(account: str, number: int) -> bool:
        key = Key(account, f"{account}:{number}", f"{account}:others")
        now = bench.clock.now
        return await bench.server.database.together(lambda s: meters.admit(s, key, meter, now))

    # Of the room that was counted a part is given out at a time, and then no more for a moment.
    admitted = 0
    for number in range(1_000):
        admitted += await admit("default", number)
        bench.clock.now += 1
    assert 100 <= await bench.count(MeterRow) <= 101
    assert admitted <= 102
    assert await admit("other", 1)
    await bench.is_clean()


async def test_accounts_and_functions_have_keys_of_their_own(bench: Bench) -> None:
    functions = [await bench.function([ONE], account=each) for each in ("default", "other")]
    functions.append(await bench.function([ONE]))
    for function_id in functions:
        assert (await bench.take(function_id, of("a"))).next_ms == bench.clock.now
        assert (await bench.take(function_id, of("a"))).next_ms == HELD_MS


@pytest.mark.parametrize(
    "rule",
    [
        {"type": "concurrency", "limit": 2, "key": "userId"},
        {"type": "concurrency", "limit": 2},
    ],
)
async def test_a_user_s_backlog_delays_nobody_else(bench: Bench, rule: Json) -> None:
    """Of 1,000 that one has queued hardly any begin before another's first."""
    function_id = await bench.function([rule])
    await bench.many(function_id, [bench.new(n, user="many") for n in range(1_000)])
    running = [each.id for each in await bench.due()]
    assert len(running) == 2
    for each in running:
        await bench.begin(each)
    theirs = await bench.many(function_id, [bench.new(user=each) for each in ("b", "c", "d")])
    ended, bench.passes = 0, 0
    begun: set[str] = set()
    while not begun.issuperset(theirs):
        for each in await bench.begin_due():
            begun.add(each)
            running.append(each)
        if not begun.issuperset(theirs):
            await bench.end(running.pop(0))
            ended += 1
    assert ended <= 5
    assert bench.passes <= 16


async def test_servers_of_one_store_never_give_a_place_twice(bench: Bench) -> None:
    """Three of them take, begin, end, cancel and sweep at once."""
    function_id = await bench.function([{**ONE, "limit": 2}, {"type": "concurrency", "limit": 3}])
    async with bench.another() as second, bench.another() as third:
        servers = (bench, second, third)
        taken = await asyncio.gather(
            *(servers[n % 3].take(function_id, of("abc"[n % 7 % 3])) for n in range(90))
        )
        key_of = {row.id: "abc"[n % 7 % 3] for n, row in enumerate(taken)}
        canceled = {row.id for n, row in enumerate(taken) if n % 10 == 9}
        gives_up = [servers[n % 3].cancel(function_id, each) for n, each in enumerate(canceled)]
        await asyncio.gather(*gives_up, *(each.sweep() for each in servers))
        done: set[str] = set()
        while len(done) < 90 - len(canceled):
            running = await bench.begin_due()
            assert len(running) <= 3
            assert max(Counter(key_of[each] for each in running).values()) <= 2
            ends = [servers[n % 3].end(each) for n, each in enumerate(running)]
            await asyncio.gather(*ends, *(each.sweep() for each in servers))
            done.update(running)
    assert done == key_of.keys() - canceled
    await bench.is_clean()


async def test_what_has_no_rules_asks_nothing_of_flow(bench: Bench) -> None:
    """Not when it is taken, nor when it ends."""
    function_id = await bench.function([])
    statements: list[str] = []
    end = heard(bench.server, statements)
    taken = await bench.take(function_id, of("a"))
    await bench.finish(taken.id)
    end()
    assert not [each for each in statements if "flow_" in each or "advisory" in each]
    assert "invocations" in "".join(statements)


async def test_what_is_gathered_is_no_larger_than_what_came(bench: Bench) -> None:
    """Whatever text is in it: the events are put together as they are."""
    function_id = await bench.function([{"type": "batch", "maxSize": 3, "maxWait": 5}])
    event = {"type": "a", "data": "\U0001f600" * 10_000}
    told = json.dumps(event, ensure_ascii=False).encode()
    invocations = bench.server.functions.invocations
    account, of_function = AccountId("default"), FunctionId(function_id)
    entries = [
        invocations.entry(account, of_function, NewInvocation(event), None, told) for _ in range(3)
    ]
    await bench.server.database.together(
        lambda session: invocations.enter_all(session, account, entries)
    )
    await bench.flow()
    (row,) = await bench.due()
    whole = await bench.row(row.id)
    assert whole.event_bytes <= 3 * len(told) + 1_000
    assert (await bench.event(row.id))["data"] == [event] * 3


async def test_a_dead_letter_that_cannot_be_read_holds_up_no_other(bench: Bench) -> None:
    """It is looked at again later."""
    function_id = await bench.function([])
    rows = [await bench.take(function_id) for _ in range(2)]
    for number, row in enumerate(rows):
        ended: Json = {"state": "failed", "reason": "handler_error", "ended_ms": bench.clock()}
        await bench.set(row.id, **ended, replay_ms=bench.clock() - 2 + number)
    await bench.set(rows[0].id, event_sealed=b"nothing")
    await bench.server.functions.dead_letters.one_pass()
    first, second = [await bench.row(row.id) for row in rows]
    assert (first.settled_ms, second.settled_ms is None) == (None, False)
    assert (first.replay_ms or 0) > bench.clock()
