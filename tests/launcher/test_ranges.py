"""Ranges of bytes against a set of them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from launcher.ranges import Ranges

spans = st.lists(
    st.tuples(st.integers(0, 40), st.integers(0, 12)).map(
        lambda span: (span[0], span[0] + span[1])
    ),
    max_size=12,
)


@given(spans, st.integers(0, 60), st.integers(1, 9))
def test_what_is_here_and_what_is_missing_are_the_file(
    added: list[tuple[int, int]], size: int, longest: int
) -> None:
    ranges = Ranges(added)
    here = {byte for start, end in added for byte in range(start, end)}
    assert (ranges.bytes, ranges.end) == (len(here), max(here, default=-1) + 1)
    missing = ranges.missing(size, longest)
    assert [byte for start, end in missing for byte in range(start, end)] == sorted(
        set(range(size)) - here
    )
    assert all(0 < end - start <= longest for start, end in missing)
    again = Ranges((start, end) for start, end in ranges.as_json())
    assert again.as_json() == ranges.as_json()
    assert all(
        before[1] < after[0]
        for before, after in zip(ranges.as_json(), ranges.as_json()[1:], strict=False)
    )


@pytest.mark.parametrize(("start", "end"), [(-1, 3), (5, 4)])
def test_no_range_at_all_is_refused(start: int, end: int) -> None:
    with pytest.raises(ValueError, match="not a range"):
        Ranges().add(start, end)
