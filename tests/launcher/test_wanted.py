"""The lines that a grep wants are the same in a block as one by one."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from launcher.wanted import Wanted

FRONT = b"2026-11-21T16: "
TEXTS = st.one_of(
    st.text(alphabet="ab1. :\u00fc\r", max_size=6).map(str.encode),
    st.binary(max_size=6).map(lambda text: text.replace(b"\n", b"")),  # no UTF-8
    st.sampled_from([b"\xe2a", b"\xc3", b"\xbca\xc3\xbc", FRONT, b"6:", b"ab" * 9]),
)
PATTERNS = [
    "a",
    "ab",
    "1",
    "16:",
    ": a",
    "2026",
    "^a",
    "b$",
    "a|b",
    "",
    " ",
    r"\bab\b",
    "(?i)A",
    "\u00fc",
    "\ufffd",
    "\ufffda",
    "\udcff",
    "\r",
]


@settings(max_examples=200)
@given(st.lists(TEXTS, min_size=1, max_size=12), st.lists(st.sampled_from(PATTERNS), max_size=2))
def test_a_block_gives_what_its_lines_give(lines: list[bytes], patterns: list[str]) -> None:
    """With how many others lie between them; what stands before the text of a line does not count."""
    wanted = Wanted(tuple(map(re.compile, patterns)))
    block = b"".join(FRONT + line + b"\n" for line in lines)
    shown = [line.decode("utf-8", "replace") for line in lines]
    found, at = [], 0
    for passed, line in wanted.among(block, start=len(FRONT)):
        at += passed
        if line:
            found.append((at, line[len(FRONT) :]))
            at += 1
    assert found == [(number, line) for number, line in enumerate(shown) if wanted(line)]
    assert at == len(lines)
    chosen = [line for line in shown if wanted(line)]
    assert wanted.join(block, start=len(FRONT)) == (len(chosen), "\n".join(chosen))
