"""Which bytes of a file are here: ranges that grow, join, and are remembered as JSON. Pure."""

from __future__ import annotations

from collections.abc import Iterable

Range = tuple[int, int]  # from, to (exclusive), in bytes


class Ranges:
    """A set of bytes, kept as few sorted ranges that do not touch each other."""

    def __init__(self, ranges: Iterable[Range] = ()) -> None:
        self._ranges: list[Range] = []
        for start, end in ranges:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """These bytes are here, too. ValueError when they are no bytes of a file."""
        if not 0 <= start <= end:
            raise ValueError(f"not a range of bytes: {start} to {end}")
        if start == end:
            return
        apart = []
        for begin, stop in self._ranges:
            if stop < start or end < begin:
                apart.append((begin, stop))
            else:
                start, end = min(start, begin), max(end, stop)
        self._ranges = sorted([*apart, (start, end)])

    def missing(self, size: int, longest: int) -> list[Range]:
        """What is not here of a file of `size` bytes, in order and in pieces of at most `longest` bytes."""
        gaps, at = [], 0
        for start, end in [*self._ranges, (size, size)]:
            gaps.append((at, min(start, size)))
            at = max(at, end)
        return [
            (first, min(first + longest, end))
            for start, end in gaps
            for first in range(start, end, longest)
        ]

    @property
    def bytes(self) -> int:
        """How many."""
        return sum(end - start for start, end in self._ranges)

    @property
    def end(self) -> int:
        """Where the last of them ends; 0 when there are none."""
        return self._ranges[-1][1] if self._ranges else 0

    def as_json(self) -> list[list[int]]:
        return [[start, end] for start, end in self._ranges]
