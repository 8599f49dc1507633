"""SIGTERM: a wish to stop. Outside the loop it ends the program at once; inside it waits for the step to be finished."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.errors import TryAgain

DEFAULT_GRACE = 120.0  # seconds; the launcher's default of job.grace
_EARLY = "stopped by SIGTERM while it was getting ready"


class Stop:
    """Says whether SIGTERM came. While `patient`, the loop asks `requested`; otherwise the signal raises TryAgain where it hits."""

    def __init__(self) -> None:
        self.requested = False
        self._patient = False

    @contextmanager
    def listening(self) -> Iterator[Stop]:
        """Handle SIGTERM inside the block. TryAgain when it came to the listener around this one and nobody heeded what that raised.

        A module that tries to import another one, or code that takes any exception for a damaged file, swallows it.
        """
        previous = signal.signal(signal.SIGTERM, self._handle)
        around = getattr(previous, "__self__", None)
        try:
            if isinstance(around, Stop) and around.requested:
                raise TryAgain(_EARLY)
            yield self
        finally:
            signal.signal(signal.SIGTERM, previous)

    @contextmanager
    def patient(self) -> Iterator[None]:
        """Inside the block the signal is only remembered."""
        self._patient = True
        try:
            if self.requested:
                raise TryAgain("stopped by SIGTERM before the next step")
            yield
        finally:
            self._patient = False

    def _handle(self, _signum: int, _frame: FrameType | None) -> None:
        again = self.requested
        self.requested = True
        if not self._patient and not again:
            raise TryAgain(_EARLY)


def grace() -> float:
    """Seconds between SIGTERM and SIGKILL, as the launcher passed them."""
    try:
        return float(os.environ.get("VIDJOBS_GRACE", "")) or DEFAULT_GRACE
    except ValueError:
        return DEFAULT_GRACE
