import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cakework.turns import Crowded, Turns


class Crew:
    """Workers that hold turns until they are told to end; ``order`` is whose turns began."""

    def __init__(self, turns: Turns[str]) -> None:
        self.turns = turns
        self.order: list[str] = []
        self.waiting: list[tuple[str, asyncio.Task[None]]] = []
        self.working: list[tuple[str, asyncio.Task[None], asyncio.Event]] = []

    async def add(self, account: str) -> None:
        self.waiting.append((account, asyncio.create_task(self._work(account))))
        await self.settle()

    async def end(self, number: int) -> None:
        self.working[number % len(self.working)][2].set()
        await self.settle()

    async def settle(self) -> None:
        """Let everybody run who can."""
        for _ in range(5):
            await asyncio.sleep(0)

    def held(self) -> Counter[str]:
        return Counter(account for account, _, _ in self.working)

    async def _work(self, account: str) -> None:
        may_end = asyncio.Event()
        task = asyncio.current_task()
        assert task is not None
        entry = (account, task, may_end)
        try:
            async with self.turns.hold(account):
                self.waiting.remove((account, task))
                self.order.append(account)
                self.working.append(entry)
                await may_end.wait()
        finally:
            if entry in self.working:
                self.working.remove(entry)
            else:
                self.waiting.remove((account, task))


def crew(at_once: int, story: Callable[[Crew], Awaitable[None]], **more: int) -> Crew:
    """Tell a story with a crew, which has to leave nothing."""
    fresh: Turns[str] = Turns(at_once, **more)
    turns: Turns[str] = Turns(at_once, **more)
    made = Crew(turns)

    async def tell() -> None:
        await story(made)
        for task in [*(task for _, task in made.waiting), *(task for _, task, _ in made.working)]:
            task.cancel()
        await made.settle()
        assert not made.waiting
        assert not made.working

    asyncio.run(tell())
    assert vars(turns) | {"_count": None} == vars(fresh) | {"_count": None}
    return made


def test_one_that_takes_all_it_can_leaves_turns_to_others() -> None:
    """However many of one account came first and never end, another's begin at once."""

    async def story(made: Crew) -> None:
        for _ in range(100):
            await made.add("mallory")
        await made.add("alice")
        await made.add("alice")
        assert made.held() == {"mallory": 2, "alice": 2}

    crew(4, story)


def test_accounts_take_turns() -> None:
    """One by one, in the order in which they came first, whoever has how many waiting."""

    async def story(made: Crew) -> None:
        for account in ("a", *"aaaaaa", *"bbb", *"cc"):
            await made.add(account)
        for _ in range(12):
            await made.end(0)

    assert "".join(crew(1, story).order) == "abcabcabaaaa"


def test_coming_anew_each_time_gains_nothing() -> None:
    """Who asks again just as its turn ends waits behind those that wait already."""

    async def story(made: Crew) -> None:
        for account in "abbbbcccc":
            await made.add(account)
        for _ in range(9):
            if made.held()["a"]:
                await made.end(0)
                await made.add("a")
            else:
                await made.end(0)

    assert "".join(crew(1, story).order)[:9] == "abcabcabc"


def test_who_holds_less_comes_first() -> None:
    """A turn that is free goes to the account that has the fewest, not to the one that is next."""

    async def story(made: Crew) -> None:
        for account in "aabbccc":
            await made.add(account)
        assert made.held() == {"a": 2, "b": 2}
        await made.end(0)
        await made.end(0)
        assert made.held() == {"b": 2, "c": 2}

    crew(4, story)


def test_only_so_many_wait() -> None:
    """One more of the same account is refused; of another it is not."""

    async def story(made: Crew) -> None:
        for account in "aaab":
            await made.add(account)
        with pytest.raises(Crowded):
            async with made.turns.hold("a"):
                pass
        assert [account for account, _ in made.waiting] == ["a", "a", "b"]

    crew(1, story, waiting=2)


def test_a_turn_is_taken_only_where_one_is_to_be_had() -> None:
    """At once or not at all; one that nobody holds cannot be given back."""

    async def story(made: Crew) -> None:
        assert made.turns.take("a")
        assert not made.turns.take("a")
        assert made.turns.whose(["a"]) is None
        assert made.turns.whose(["a", "b", "c"]) == "b"
        await made.add("a")
        assert made.turns.take("b")
        assert not made.turns.take("c")
        made.turns.give_back("a")
        await made.settle()
        assert made.held() == {"a": 1}
        made.turns.give_back("b")
        with pytest.raises(RuntimeError):
            made.turns.give_back("b")

    crew(2, story)


def test_a_turn_whose_owner_is_cancelled_as_it_comes_is_passed_on() -> None:
    """In the same step of the loop: it is neither lost nor held by nobody."""

    async def story(made: Crew) -> None:
        for account in "abc":
            await made.add(account)
        (_, b), _ = made.waiting
        made.working[0][2].set()
        await asyncio.sleep(0)
        b.cancel()
        await made.settle()
        assert made.held() == {"c": 1}

    crew(1, story)


STEPS = st.lists(
    st.tuples(st.sampled_from(["add", "add", "end", "cancel", "both"]), st.integers(0, 50)),
    max_size=40,
)


@given(st.integers(1, 5), st.integers(1, 5), STEPS)
def test_whatever_happens(at_once: int, each: int, steps: list[tuple[str, int]]) -> None:
    """Never more at once than may, of all or of one account; whoever may have a turn has it; in
    the end nothing is kept."""

    async def story(made: Crew) -> None:
        for step, number in steps:
            match step:
                case "add":
                    await made.add("abc"[number % 3])
                case "cancel" if made.waiting:
                    made.waiting[number % len(made.waiting)][1].cancel()
                case "end" if made.working:
                    await made.end(number)
                case "both" if made.working and made.waiting:
                    made.working[number % len(made.working)][2].set()
                    if number % 2:
                        await asyncio.sleep(0)
                    made.waiting[number % len(made.waiting)][1].cancel()
                case _:
                    pass
            await made.settle()
            held = made.held()
            assert held.total() <= at_once
            assert max(held.values(), default=0) <= min(each, at_once)
            able = [account for account, _ in made.waiting if held[account] < min(each, at_once)]
            assert not able or held.total() == at_once

    crew(at_once, story, each=each)
