"""Turns: one account after another, whatever each of them has waiting."""

from hypothesis import given
from hypothesis import strategies as st

from cakework.node.rotation import Rotation


@given(st.lists(st.sampled_from("abcd"), max_size=60))
def test_whoever_waits_is_next_after_one_of_each_account(accounts: list[str]) -> None:
    """All come, those of one account in order, and of none two before one of another that waits."""
    turns: Rotation[tuple[str, int]] = Rotation()
    for number, account in enumerate(accounts):
        turns.add(account, (account, number))
    taken: list[tuple[str, int]] = []
    while (thing := turns.take()) is not None:
        taken.append(thing)
    assert sorted(number for _, number in taken) == list(range(len(accounts)))
    for account in set(accounts):
        places = [place for place, (whose, _) in enumerate(taken) if whose == account]
        numbers = [taken[place][1] for place in places]
        assert numbers == sorted(numbers)
        for before, after in zip([-1, *places], places, strict=False):
            between = [whose for whose, _ in taken[before + 1 : after]]
            assert len(between) == len(set(between))


def test_a_newcomer_does_not_wait_for_all_that_was_there() -> None:
    """Thousands of one account's delay another's first by one."""
    turns: Rotation[int] = Rotation()
    for number in range(5000):
        turns.add("loud", number)
    assert turns.take() == 0
    turns.add("quiet", 7)
    assert [turns.take(), turns.take(), turns.take()] == [1, 7, 2]
