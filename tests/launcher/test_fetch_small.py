"""Which files are fetched together: in order, and never more than one question and one answer bear."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.backend_base import RemoteFile
from launcher.fetch_small import SMALL, grouped

sizes = st.one_of(st.integers(0, 2000), st.integers(SMALL - 2, SMALL + 2), st.just(10**9))
pairs = st.lists(
    st.tuples(st.text("aé/", min_size=1, max_size=300), sizes, st.booleans()), max_size=60
)


@settings(deadline=None, max_examples=200)
@given(pairs)
def test_groups_are_the_list_in_order_and_bounded(drawn: list[tuple[str, int, bool]]) -> None:
    files = [
        (RemoteFile(path=f"{number}{name}", size=size, mtime_ns=1), Path(str(number)))
        for number, (name, size, _) in enumerate(drawn)
    ]
    begun = {Path(str(number)) for number, (_, _, part) in enumerate(drawn) if part}
    groups = list(grouped(files, unfinished=begun.__contains__))
    assert [pair for _, group in groups for pair in group] == files
    for small, group in groups:
        assert small or len(group) == 1
        if small:
            assert all(file.size <= SMALL and target not in begun for file, target in group)
            assert sum(file.size for file, _ in group) <= 4 << 20
            assert len(group) == 1 or len(json.dumps({file.path: "" for file, _ in group})) <= 4000
