"""The logs of all attempts of a run in one: trials and nodes that run beside each other, line by line in time order, also as they come."""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Iterator, Sequence

from launcher.backend_base import LogLine, PodStatus
from launcher.backends.local.line_log import LineReader, stamp
from launcher.backends.local.reader import index_ended, of_index, read_status
from launcher.backends.local.state import run_dir

_POLL_S = 0.1
# characters of a time to the second, which is all that is known of an attempt's start
_SECONDS = 19
# a line is in its file so long after its stamp: what is older can be put in order for good
_SETTLED_NS = 200_000_000


def read_merged(
    run: str, *, follow: bool, since_s: int | None, tail: int | None, index: int | None = None
) -> Iterator[LogLine]:
    """Each line once; with `follow` until the run has ended. `tail`: of each attempt that is there now."""
    since = stamp(time.time_ns() - since_s * 1_000_000_000) if since_s is not None else ""
    sources: dict[str, _Source] = {}
    first = True
    while True:
        horizon = stamp(time.time_ns() - _SETTLED_NS)
        status = read_status(run)  # before the files: what an ended attempt wrote is then all there
        over = not follow or status.phase.ended or index_ended(status, index)
        for pod in of_index(status, index):
            known = sources.setdefault(pod.name, _Source(run, pod, tail if first else None))
            known.ended = bool(pod.finished) or status.phase.ended
        open_ = [source for source in sources.values() if not source.done]
        for line in _in_order(open_, "" if over else horizon):
            if line.time >= since:
                yield line
        if over:
            return
        first = False
        time.sleep(_POLL_S)


class _Source:
    """One attempt's log."""

    def __init__(self, run: str, pod: PodStatus, tail: int | None) -> None:
        self.started = pod.started
        self.ended = False
        self.done = False  # ended, and read to its end
        self._pod = pod.name
        self._files = run_dir(run)
        self._reader = LineReader(self._files.log(pod.name), pod.name)
        self._tail = tail
        self._held: deque[LogLine] = deque()  # read, and too new to be put in order

    def lines(self, horizon: str) -> Iterator[LogLine]:
        """Those that are older than `horizon` ("": all), as far as they are written."""
        ended = self.ended
        while self._held:
            if horizon and self._held[0].time >= horizon:
                return
            yield self._held.popleft()
        for line in self._new(ended=ended):
            if horizon and line.time >= horizon:
                self._held.appendleft(line)
                return
            yield line
        self.done = ended

    def _new(self, *, ended: bool) -> Iterator[LogLine]:
        if self._tail is None:
            yield from self._written(ended=ended)
            return
        self._reader.skip_to_last(self._tail)
        last = deque(self._written(ended=ended), maxlen=self._tail)
        self._tail = None
        self._held = last
        while self._held:
            yield self._held.popleft()

    def _written(self, *, ended: bool) -> Iterator[LogLine]:
        yield from self._reader.lines(ended=ended)
        # the trainer did not start: what `code` wrote says why
        if ended and not self._files.log(self._pod).exists():
            yield from LineReader(self._files.log(self._pod, "code"), self._pod, "code").lines(
                ended=True
            )


def _in_order(sources: Sequence[_Source], horizon: str) -> Iterator[LogLine]:
    """Their lines by time. A log is opened when the others have come to its start: of a thousand trials few are open at once."""
    waiting = deque(sorted(sources, key=lambda source: source.started))
    heads: list[tuple[str, int, LogLine, Iterator[LogLine]]] = []
    number = 0
    while waiting or heads:
        if waiting and (not heads or waiting[0].started[:_SECONDS] <= heads[0][0][:_SECONDS]):
            lines, place = waiting.popleft().lines(horizon), number
            number += 1
            after = ""
        else:
            after, place, line, lines = heapq.heappop(heads)
            yield line
        following = next(lines, None)
        if following is not None:
            heapq.heappush(heads, (max(after, following.time), place, following, lines))
