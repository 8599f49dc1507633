"""The logs of several pods, followed at once, as one log in time order.

Each pod's log is in order by itself. A line is shown when no other pod can still bring an older one: each of them has a later line
waiting, has ended, or has been quiet for a moment (a pod that prints nothing must not hold back those that do). So what the pods
have written before is merged whatever its length, and a new line waits a moment at most. Memory is bounded: a pod that is far
ahead is not read on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator

from launcher.backend_base import LogLine
from launcher.errors import ClusterError

QUIET_S = 1.0  # after its last line, or after its log was asked for, a pod may bring an older line than the others have
_AHEAD = 1000  # lines that wait, of each pod


class _Source:
    """What has come of one pod's log and is not shown yet."""

    def __init__(self) -> None:
        self.lines: deque[tuple[str, LogLine]] = deque()  # with the time to order by: one without stays behind the line before it
        self.ended = False
        self.heard = time.monotonic()
        self.last = ""

    def add(self, line: LogLine) -> None:
        self.last = line.time or self.last
        self.heard = time.monotonic()
        self.lines.append((self.last, line))


class SideBySide:
    """`logs` gives the lines of one pod after the other begins to run; `stop` ends all."""

    def __init__(self, logs: Iterable[Callable[[], Iterator[LogLine]]], stop: threading.Event) -> None:
        self._logs = logs
        self._stop = stop
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
                if self._complete and all(source.ended and not source.lines for source in self._sources):
                    return []
                self._news.wait(self._until_quiet())

    def _settled(self) -> list[LogLine]:
        """Lines that nothing older can precede, in order."""
        batch = []
        while not self._awaited():
            heads = [source for source in self._sources if source.lines]
            if not heads:
                break
            batch.append(min(heads, key=lambda source: source.lines[0][0]).lines.popleft()[1])
        return batch

    def _awaited(self) -> list[float]:
        """How long, in seconds, something may still bring an older line than all that wait: a pod, or one that is not known yet."""
        heard = [source.heard for source in self._sources if not (source.lines or source.ended)]
        heard += [] if self._complete else [self._found]
        return [left for at in heard if (left := at + QUIET_S - time.monotonic()) > 0]

    def _until_quiet(self) -> float | None:
        """Seconds after which what waits can be shown; None: only news changes anything."""
        return max(self._awaited(), default=0.0) if any(source.lines for source in self._sources) else None

    def _discover(self) -> None:
        threads = []
        try:
            for log in self._logs:
                source = _Source()
                with self._news:
                    self._sources.append(source)
                    self._found = time.monotonic()
                threads.append(threading.Thread(target=self._follow, args=(source, log), daemon=True))
                threads[-1].start()
        except ClusterError as error:
            self._fail(error)
        with self._news:
            self._complete = True
            self._news.notify_all()

    def _follow(self, source: _Source, log: Callable[[], Iterator[LogLine]]) -> None:
        try:
            for line in log():
                with self._news:
                    while len(source.lines) >= _AHEAD and not self._stop.is_set():
                        self._news.wait(0.5)
                    source.add(line)
                    self._news.notify_all()
        except ClusterError as error:
            self._fail(error)
        finally:
            with self._news:
                source.ended = True
                self._news.notify_all()

    def _fail(self, error: ClusterError) -> None:
        with self._news:
            self._error = self._error or error
            self._news.notify_all()
