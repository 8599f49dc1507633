"""Which lines of a log somebody asked for, found in whole blocks of them: a log may bring a million lines a second."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_SPECIAL = re.compile(r"[.^$*+?{}\[\]\\|()\n]")


@dataclass(frozen=True)
class Wanted:
    """The lines in which any of the patterns is found; all where there is none. `joined`: many may come as one text of many lines."""

    patterns: tuple[re.Pattern[str], ...]
    joined: bool = False

    def __call__(self, text: str) -> bool:
        return not self.patterns or any(pattern.search(text) for pattern in self.patterns)

    def among(self, block: str, *, start: int) -> Iterator[tuple[int, str]]:
        """(lines passed over since the one before, line) of a block of lines that all end with a newline.

        `start`: characters at the front of each line that do not count. What comes last is (lines after the last one, "").
        """
        passed = 0
        if len(self.patterns) == 1 and self._literal:
            yield from self._found(block, start)
            return
        search = self.patterns[0].search if len(self.patterns) == 1 else self
        for line in block[:-1].split("\n"):
            if search(line[start:]):
                yield passed, line
                passed = 0
            else:
                passed += 1
        yield passed, ""

    def join(self, block: str, *, start: int) -> tuple[int, str]:
        """(how many, all of them without their fronts as one text) of a block."""
        lines = [line[start:] for line in block[:-1].split("\n")]
        if self.patterns:
            search = self.patterns[0].search if len(self.patterns) == 1 else self
            lines = [line for line in lines if search(line)]
        return len(lines), "\n".join(lines)

    @property
    def _literal(self) -> str:
        """The text that the only pattern stands for; "" where it is more than a text."""
        pattern = self.patterns[0]
        plain = pattern.flags == re.UNICODE and not _SPECIAL.search(pattern.pattern)
        return pattern.pattern if plain else ""

    def _found(self, block: str, start: int) -> Iterator[tuple[int, str]]:
        """By looking for the text itself, over all lines at once."""
        text, done, at = self._literal, 0, 0
        while (at := block.find(text, at)) >= 0:
            first = block.rfind("\n", 0, at) + 1
            end = block.find("\n", at)
            if at - first >= start or block.find(text, first + start, end) >= 0:
                yield block.count("\n", done, first), block[first:end]
                done = end + 1
            at = end
        yield block.count("\n", done), ""
