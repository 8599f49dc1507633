"""Which lines of a log somebody asked for, found in whole blocks of them: a log may bring a million lines a second."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

_SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()\n]")


@dataclass(frozen=True)
class Wanted:
    """The lines in which any of the patterns is found; all where there is none. `joined`: many may come as one text of many lines.

    A block is whole lines that each end with a newline, as they were sent; what is no UTF-8 is shown as U+FFFD. `start`: bytes at the
    front of each line that do not count, all of them ASCII.
    """

    patterns: tuple[re.Pattern[str], ...]
    joined: bool = False

    def __call__(self, text: str) -> bool:
        return not self.patterns or any(pattern.search(text) for pattern in self.patterns)

    def among(self, block: bytes, *, start: int) -> Iterator[tuple[int, str]]:
        """(lines passed over since the one before, line with its front); what comes last is (lines after the last one, "")."""
        if self._word is not None:
            done = 0
            for first, end in _lines_with(self._word, block, start):
                yield block.count(b"\n", done, first), _text(block[first : end - 1])
                done = end
            yield block.count(b"\n", done), ""
            return
        passed = 0
        for line in _text(block[:-1]).split("\n"):
            if self._search(line[start:]):
                yield passed, line
                passed = 0
            else:
                passed += 1
        yield passed, ""

    def join(self, block: bytes, *, start: int) -> tuple[int, str]:
        """(how many, all of them without their fronts as one text)."""
        if self._word is not None:
            found = [
                block[first + start : end] for first, end in _lines_with(self._word, block, start)
            ]
            return len(found), _text(b"".join(found)[:-1])
        lines = [line[start:] for line in _text(block[:-1]).split("\n")]
        if self.patterns:
            lines = [line for line in lines if self._search(line)]
        return len(lines), "\n".join(lines)

    @cached_property
    def _search(self) -> Callable[[str], object]:
        return self.patterns[0].search if len(self.patterns) == 1 else self

    @cached_property
    def _word(self) -> re.Pattern[bytes] | None:
        """The only pattern and the rest of its line, to look for in a block as it was sent; None where it is more than a word of ASCII.

        Bytes of ASCII mean the same whatever stands before and after them, also where that is no UTF-8.
        """
        if len(self.patterns) != 1:
            return None
        (pattern,) = self.patterns
        plain = (
            pattern.flags == re.UNICODE
            and pattern.pattern.isascii()
            and not _SPECIAL.search(pattern.pattern)
        )
        return (
            re.compile(re.escape(pattern.pattern.encode()) + rb".*+\n")
            if plain and pattern.pattern
            else None
        )


def _lines_with(word: re.Pattern[bytes], block: bytes, start: int) -> Iterator[tuple[int, int]]:
    """(where it begins, where the next one begins) of each line with the word, by looking for it over all lines at once."""
    for found in word.finditer(block):
        at, end = found.span()
        first = block.rfind(b"\n", 0, at) + 1
        if at >= first + start or word.search(block, first + start, end):
            yield first, end


def _text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")
