"""The lines that a grep wants are the same in a block as one by one."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from launcher.wanted import Wanted

LINES = st.lists(st.text(alphabet="ab1. ", max_size=6), min_size=1, max_size=12)


@given(LINES, st.lists(st.sampled_from(["a", "ab", "1", "12:", "^a", "b$", "a|b", "", " ", r"\bab\b", "(?i)A"]), min_size=1, max_size=2))
def test_a_block_gives_what_its_lines_give(lines: list[str], patterns: list[str]) -> None:
    """With how many others lie between them; what stands before the text of a line does not count."""
    wanted = Wanted(tuple(map(re.compile, patterns)))
    found, at = [], 0
    for passed, line in wanted.among("".join(f"12:{line}\n" for line in lines), start=3):
        at += passed
        if line:
            found.append((at, line[3:]))
            at += 1
    assert found == [(number, line) for number, line in enumerate(lines) if wanted(line)]
    assert at == len(lines)
    chosen = [line for line in lines if wanted(line)]
    assert wanted.join("".join(f"12:{line}\n" for line in lines), start=3) == (len(chosen), "\n".join(chosen))
