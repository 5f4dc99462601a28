import pytest
from benchmarks.series import ratios, summarise
from hypothesis import given
from hypothesis import strategies as st


def test_a_series_is_summed_up() -> None:
    """Of 1 … 100 the median is 50.5, and 95 % are at most 95."""
    summary = summarise([float(value) for value in range(100, 0, -1)])
    assert (summary.median, summary.p95, summary.least, summary.most) == (50.5, 95, 1, 100)


@given(st.lists(st.floats(0, 1e6), min_size=1))
def test_most_values_are_within_p95(values: list[float]) -> None:
    """p95 is a value of the series that at least 95 % of it do not exceed."""
    p95 = summarise(values).p95
    assert p95 in values
    assert sum(value <= p95 for value in values) >= 0.95 * len(values)


def test_ratios_are_taken_turn_by_turn() -> None:
    """Each value is compared with the other of its own turn; a turn without another is a fault."""
    assert ratios([1.0, 9.0], [2.0, 3.0]) == [0.5, 3.0]
    with pytest.raises(ValueError, match="shorter"):
        ratios([1.0, 2.0], [1.0])
