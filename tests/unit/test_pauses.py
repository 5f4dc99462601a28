"""How tests wait."""

from itertools import islice

from tests.pauses import pauses


def test_pauses_get_longer_up_to_a_bound() -> None:
    """And none is longer than a quarter of what was waited before it, beyond the first."""
    found = list(islice(pauses(0.02, 0.1), 40))
    assert (found[0], found[-1]) == (0.02, 0.1)
    assert found == sorted(found)
    assert all(pause <= 0.02 + sum(found[:at]) / 4 + 1e-9 for at, pause in enumerate(found))
