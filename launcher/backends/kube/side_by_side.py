"""The logs of several pods, followed at once, as one log in time order.

Each pod's log is in order by itself. A line is shown when no other pod can still bring an older one: each of them has a later line
waiting, has ended, or has been quiet for a moment (a pod that prints nothing must not hold back those that do). While a pod has said
nothing yet, new lines wait a little longer: it may have begun already, and news of that take their time. So what the pods have
written before is merged whatever its length, and a new line waits a moment at most. Memory is bounded: a pod that is far ahead is
not read on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from typing import NamedTuple

from launcher.backend_base import LogLine
from launcher.errors import ClusterError

# after its last line, or after its log was asked for, a pod may bring an older line than the others
# have
QUIET_S = 1.0
BEGIN_S = 3.0  # after its first line was written a pod is known to run, and its log is read
_AHEAD = 1000  # lines that wait, of each pod


def timed(lines: Iterator[LogLine]) -> Iterator[tuple[str, LogLine]]:
    """One log's lines with the time to order them by: a line without one stays behind the line before it."""
    last = ""
    for line in lines:
        last = line.time or last
        yield last, line


class _Waiting(NamedTuple):
    """A line that is not shown yet."""

    time: str  # to order by
    came: float  # monotonic seconds
    line: LogLine


class _Source:
    """What has come of one pod's log and is not shown yet."""

    def __init__(self) -> None:
        self.lines: deque[_Waiting] = deque()
        self.ended = False
        self.begun = False  # it has said something, or never will
        self.heard = time.monotonic()

    def add(self, when: str, line: LogLine) -> None:
        self.begun = self.begun or bool(when)
        self.heard = time.monotonic()
        self.lines.append(_Waiting(when, self.heard, line))


class SideBySide:
    """`logs` gives one log for each pod, as the pods come; `stop` ends all. `now`: the cluster's clock, in seconds since the epoch."""

    def __init__(
        self,
        logs: Iterable[Callable[[], Iterator[LogLine]]],
        stop: threading.Event,
        now: Callable[[], float],
    ) -> None:
        self._logs = logs
        self._stop = stop
        self._now = now
        self._news = threading.Condition()
        self._sources: list[_Source] = []
        self._found = time.monotonic()  # the newest pod
        self._complete = False  # no pod will come any more
        self._error: ClusterError | None = None

    def lines(self) -> Iterator[LogLine]:
        """Until all logs have ended. ClusterError as soon as one of them cannot be read."""
        threading.Thread(target=self._discover, daemon=True).start()
        while batch := self._next():
            yield from batch

    def _next(self) -> list[LogLine]:
        """What can be shown now, waiting for it; nothing at the end."""
        with self._news:
            while True:
                if self._error is not None:
                    raise self._error
                if batch := self._settled():
                    self._news.notify_all()  # there is room again
                    return batch
                if self._complete and not self._sources:
                    return []
                self._news.wait(self._until_quiet())

    def _settled(self) -> list[LogLine]:
        """Lines that nothing older can precede, in order. A log that was shown to its end is left out from then on."""
        batch = []
        while (oldest := self._oldest()) is not None and not self._awaited():
            batch.append(oldest.lines.popleft().line)
        self._sources = [source for source in self._sources if source.lines or not source.ended]
        return batch

    def _oldest(self) -> _Source | None:
        """Whose line is the next."""
        return min(
            (source for source in self._sources if source.lines),
            key=lambda source: source.lines[0].time,
            default=None,
        )

    def _awaited(self) -> list[float]:
        """How long, in seconds, something may still bring an older line than all that wait: a pod, or one that is not known yet."""
        until = [
            source.heard + QUIET_S for source in self._sources if not (source.lines or source.ended)
        ]
        until += [] if self._complete else [self._found + QUIET_S]
        oldest = self._oldest()
        if (
            oldest is not None
            and not all(source.begun for source in self._sources)
            and self._young(oldest.lines[0])
        ):
            until.append(oldest.lines[0].came + BEGIN_S)
        return [left for end in until if (left := end - time.monotonic()) > 0]

    def _young(self, waiting: _Waiting) -> bool:
        """Written so lately that a pod that begins now may have written before it."""
        return waiting.time >= datetime.fromtimestamp(self._now() - BEGIN_S, UTC).strftime(
            "%Y-%m-%dT%H:%M:%S"
        )

    def _until_quiet(self) -> float | None:
        """Seconds after which what waits can be shown; None: only news changes anything."""
        return (
            max(self._awaited(), default=0.0)
            if any(source.lines for source in self._sources)
            else None
        )

    def _discover(self) -> None:
        try:
            for log in self._logs:
                source = _Source()
                with self._news:
                    self._sources.append(source)
                    self._found = time.monotonic()
                threading.Thread(target=self._follow, args=(source, log), daemon=True).start()
        except ClusterError as error:
            self._fail(error)
        with self._news:
            self._complete = True
            self._news.notify_all()

    def _follow(self, source: _Source, log: Callable[[], Iterator[LogLine]]) -> None:
        try:
            for when, line in timed(log()):
                with self._news:
                    while len(source.lines) >= _AHEAD and not self._stop.is_set():
                        self._news.wait(0.5)
                    source.add(when, line)
                    self._news.notify_all()
        except ClusterError as error:
            self._fail(error)
        finally:
            with self._news:
                source.begun = source.ended = True
                self._news.notify_all()

    def _fail(self, error: ClusterError) -> None:
        with self._news:
            self._error = self._error or error
            self._news.notify_all()
