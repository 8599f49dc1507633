"""How far a long piece of work is, in a line every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

from trainer.records import format_eta

SECONDS = 5.0  # between two lines

Say = Callable[[str], None]


class Progress:
    """`prepare frames: 12 of 30000 videos, 4 videos/s, 2h04m left`."""

    def __init__(
        self, what: str, total: int, say: Say, *, unit: str = "videos", done: int = 0
    ) -> None:
        self._what, self._total, self._say, self._unit = what, total, say, unit
        self._done = self._before = done
        self._began = self._told = time.monotonic()

    def step(self) -> None:
        """One more is done."""
        self._done += 1
        now = time.monotonic()
        if now - self._told >= SECONDS:
            rate = (self._done - self._before) / (now - self._began)
            left = format_eta((self._total - self._done) / rate)
            each = (
                f"{rate:.0f} {self._unit}/s" if rate >= 1 else f"{60 * rate:.2g} {self._unit}/min"
            )
            self._say(
                f"prepare {self._what}: {self._done} of {self._total} {self._unit}, {each}, {left} left"
            )
            self._told = now
