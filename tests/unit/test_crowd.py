import pytest

from cakework.crowd import Crowd, whose


class Caller:
    """As much of a connection as a crowd sees."""

    def __init__(self, peer: str) -> None:
        self.peer = peer
        self.is_lost = False

    def abort(self) -> None:
        self.is_lost = True


def test_of_the_address_with_most_the_one_that_is_silent_for_longest_gives_way() -> None:
    """Which is not the oldest connection: one that has asked meanwhile stays, as do others'."""
    crowd = Crowd[Caller](4)
    other, first, second, third = map(Caller, ("10.0.0.1", *["10.0.0.2"] * 3))
    for each in (other, first, second, third):
        assert crowd.admit(each)
    with crowd.speaking(first):
        pass
    assert crowd.admit(Caller("10.0.0.3"))
    assert [each.is_lost for each in (other, first, second, third)] == [False, False, True, False]
    assert crowd.admit(Caller("10.0.0.3"))
    assert third.is_lost


def test_nobody_who_speaks_gives_way() -> None:
    """Where all do, no more are taken; nothing is kept of those that left."""
    crowd = Crowd[Caller](2)
    one, two = Caller("10.0.0.1"), Caller("10.0.0.1")
    assert crowd.admit(one)
    assert crowd.admit(two)
    with crowd.speaking(one), crowd.speaking(two):
        assert not crowd.admit(Caller("10.0.0.2"))
        crowd.leave(one)
        three = Caller("10.0.0.2")
        assert crowd.admit(three)
    for each in (one, two, three):
        crowd.leave(each)
    assert vars(crowd) == vars(Crowd[Caller](2))


def test_one_that_gave_way_is_counted_no_more() -> None:
    """Also while its request, which came in the same moment, is still seen to its end."""
    crowd = Crowd[Caller](1)
    one, two = Caller("10.0.0.1"), Caller("10.0.0.1")
    assert crowd.admit(one)
    assert crowd.admit(two)
    assert one.is_lost
    with crowd.speaking(one), crowd.speaking(two):
        crowd.leave(one)
        assert not crowd.admit(Caller("10.0.0.1"))
    crowd.leave(two)
    assert vars(crowd) == vars(Crowd[Caller](1))


@pytest.mark.parametrize(
    ("peer", "client"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "::ffff:192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
    ],
)
def test_a_client_is_known_by_what_it_does_not_choose(peer: str, client: str) -> None:
    """Of IPv6 that is the network."""
    assert whose(peer) == client
